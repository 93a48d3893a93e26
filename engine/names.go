package engine

import (
	"crypto/rand"
	"encoding/hex"
	mathrand "math/rand/v2"
	"strings"
)

const adjectives = `able amber apt ashen bold brave breezy bright brisk calm candid chalky cheery clear clever coastal
copper cozy crisp dapper daring deft dewy eager early earnest easy elated fair fabled fast fleet fond frank fresh
frosty gentle giddy glad golden grand green handy hardy hazy hearty honest humble icy ideal jolly jovial keen kind
leafy level light lively loyal lucid lucky lunar mellow merry mild misty modest mossy neat nimble noble patient plucky
polite proud quick quiet rapid ready rocky rosy royal rustic sandy serene sharp silent silver sleek smooth snowy solid
spry stable steady still stoic stout sunny sure swift tidal tidy tranquil trusty upbeat vivid warm wise witty zesty`

// Bodies of water, some of which are tarns.
const nouns = `angle annecy baikal balaton bassenthwaite blea bled bodensee brienz broads brothers burnmoor buttermere
caddo chad champlain chapala codale como crummock derwent dock easedale erie eyre floutern garda geneva goats grisedale
hallstatt huron ladoga leman levers little loch lomond lugano malawi mead michigan mono muritz naivasha ness nipigon
okeechobee onega ontario orta peipus placid plitvice powell rannoch rydal saimaa scoat sevan simcoe small sprinkling
stickle superior tahoe tana tanganyika tarn thun titicaca toba torne torridon tuz urmia vanern vattern victoria volta
walchen wannsee wast windermere winnipeg yellowstone zug zurich`

// newID makes up an ID for a container, or a name for a volume that has none.
func newID() string {
	var id [32]byte
	_, _ = rand.Read(id[:]) // never fails (crypto/rand)
	return hex.EncodeToString(id[:])
}

// randomName makes up a name for a container.
func randomName() string {
	pick := func(list string) string {
		words := strings.Fields(list)
		return words[mathrand.IntN(len(words))]
	}
	return pick(adjectives) + "_" + pick(nouns)
}
