package engine

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/tarnfs/tarn/image"
)

// ImageReport is an image as "docker image inspect" prints it.
type ImageReport struct {
	ID           string `json:"Id"`
	RepoTags     []string
	RepoDigests  []string
	Comment      string
	Created      string
	Author       string
	Config       image.RunConfig
	Architecture string
	Variant      string `json:",omitempty"`
	Os           string
	Size         int64
	GraphDriver  GraphDriver
	RootFS       RootFSReport
	Metadata     struct{ LastTagTime string }
}

// GraphDriver says where the layers are mounted. Of an image all are lower; UpperDir, MergedDir and
// WorkDir are a container's.
type GraphDriver struct {
	Name string
	Data map[string]string
}

// RootFSReport lists the layers, the lowest first.
type RootFSReport struct {
	Type   string
	Layers []image.Digest
}

// InspectImage describes an image.
func (e *Engine) InspectImage(ctx context.Context, ref string) (report *ImageReport, err error) {
	err = e.undisturbedImage(ctx, ref, func(img *Image) (err error) {
		report, err = e.inspectImage(img)
		return err
	})
	return report, err
}

func (e *Engine) inspectImage(img *Image) (*ImageReport, error) {
	size, err := e.size(img.Config)
	if err != nil {
		return nil, err
	}
	driver, err := e.graphDriver(img.Config.RootFS.DiffIDs)
	if err != nil {
		return nil, err
	}
	report := &ImageReport{
		ID: string(img.ID), RepoTags: []string{}, RepoDigests: []string{},
		Comment: comment(img.Config), Author: img.Config.Author, Config: img.Config.Config,
		Architecture: img.Config.Architecture, Variant: img.Config.Variant, Os: img.Config.OS, Size: size,
		GraphDriver: driver,
		RootFS:      RootFSReport{Type: img.Config.RootFS.Type, Layers: img.Config.RootFS.DiffIDs},
	}
	if img.Config.Created != nil {
		report.Created = img.Config.Created.UTC().Format(time.RFC3339Nano)
	}
	report.Metadata.LastTagTime = img.Image.Created.UTC().Format(time.RFC3339Nano)
	return report, e.addNames(report, img.ID)
}

// comment is the image's, or else the one of its last step: as Docker has it.
func comment(config *image.Config) string {
	if config.Comment == "" && len(config.History) > 0 {
		return config.History[len(config.History)-1].Comment
	}
	return config.Comment
}

func (e *Engine) addNames(report *ImageReport, id image.Digest) error {
	records, err := e.Store.Images()
	if err != nil {
		return err
	}
	for _, record := range records {
		if record.ID != id || record.Name == "" {
			continue
		}
		ref, err := image.ParseReference(record.Name)
		if err != nil {
			return err
		}
		if ref.Tag() != "" {
			report.RepoTags = append(report.RepoTags, ref.Familiar())
		}
		if digest := ref.FamiliarName() + "@" + string(record.Target()); !slices.Contains(report.RepoDigests, digest) {
			report.RepoDigests = append(report.RepoDigests, digest)
		}
	}
	return nil
}

// graphDriver says where the layers are when mounted, the top one first as overlay's lowerdir.
func (e *Engine) graphDriver(layers []image.Digest) (GraphDriver, error) {
	driver := GraphDriver{Name: e.Driver.Name()}
	dirs := make([]string, 0, len(layers))
	for _, diffID := range slices.Backward(layers) {
		l, err := e.Store.Layer(diffID)
		if err != nil {
			return driver, err
		}
		name, dir := e.Driver.Locate(driverLayer(l))
		driver.Name, dirs = name, append(dirs, dir)
	}
	driver.Data = map[string]string{"LowerDir": strings.Join(dirs, ":")}
	return driver, nil
}
