// Command docker prints what Docker makes of a container when nothing is asked for, as JSON:
//
//	go run . > ../docker.json
//
// It is a module of its own, because Docker's has a hundred others behind it.
package main

import (
	"encoding/json"
	"log"
	"os"

	"github.com/docker/docker/oci"
)

func main() {
	out := json.NewEncoder(os.Stdout)
	out.SetIndent("", "  ")
	if err := out.Encode(oci.DefaultLinuxSpec()); err != nil {
		log.Fatal(err)
	}
}
