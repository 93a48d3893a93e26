package store

import "github.com/tarnfs/tarn/internal/sealed"

// Forget leaves a stage as the death of its process would: open files are closed, nothing is removed.
func (ls *LayerStage) Forget() {
	_ = ls.Tar.Close()
	_ = ls.Index.Close()
	_ = ls.stage.dir.Close()
}

// Seal, Unseal, CheckSeal and Unflip are for tests of records.
func Seal(v any) ([]byte, error)            { return sealed.Encode(v) }
func Unseal(data []byte, v any) error       { return sealed.Decode(data, v) }
func CheckSeal(data []byte) error           { return sealed.Check(data) }
func Unflip(data []byte) ([]byte, bool)     { return unflip(data) }
func DecodeSums(data []byte) (*Sums, error) { return decodeSums(data) }
