package server

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"github.com/tarnfs/tarn/image"
)

// maxReferrersPage bounds one answer with referrers: clients refuse indexes above 4 MiB.
const maxReferrersPage = 3 << 20

func (h *Handler) catalog(w http.ResponseWriter, r *call) error {
	all, err := h.content.Repositories(r.Context())
	if err != nil {
		return err
	}
	page, err := paginate(w, r, all)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, "application/json", map[string]any{"repositories": page})
	return nil
}

func (h *Handler) tags(w http.ResponseWriter, r *call) error {
	all, err := h.content.Tags(r.Context(), r.repository)
	if err != nil {
		return err
	}
	page, err := paginate(w, r, all)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, "application/json", map[string]any{"name": r.repository, "tags": page})
	return nil
}

// paginate gives the part of a sorted list that the parameters "n" and "last" ask for, and says in a
// header where the rest is (OCI distribution-spec, "Listing Tags").
func paginate(w http.ResponseWriter, r *call, all []string) ([]string, error) {
	query := r.URL.Query()
	from := 0
	if last := query.Get("last"); last != "" {
		i, found := slices.BinarySearch(all, last)
		if from = i; found {
			from++
		}
	}
	page := append([]string{}, all[from:]...) // an empty list is not null
	if query.Get("n") == "" {
		return page, nil
	}
	n, err := strconv.Atoi(query.Get("n"))
	if err != nil || n < 0 {
		return nil, refuse(http.StatusBadRequest, "PAGINATION_NUMBER_INVALID", "%.20q is not a number of results", query.Get("n"))
	}
	if n < len(page) {
		if page = page[:n]; n > 0 {
			linkNext(w, r, url.Values{"n": {strconv.Itoa(n)}, "last": {page[n-1]}})
		}
	}
	return page, nil
}

func linkNext(w http.ResponseWriter, r *call, query url.Values) {
	w.Header().Set("Link", "<"+r.URL.EscapedPath()+"?"+query.Encode()+`>; rel="next"`)
}

func (h *Handler) referrers(w http.ResponseWriter, r *call) error {
	subject, err := image.ParseDigest(r.last)
	if err != nil {
		return err
	}
	query := r.URL.Query()
	artifactType := query.Get("artifactType")
	list := []image.Descriptor{}
	size := 0
	for d, err := range h.content.Referrers(r.Context(), r.repository, subject, image.Digest(query.Get("last"))) {
		if err != nil {
			return err
		}
		if artifactType != "" && artifactType != d.ArtifactType {
			continue
		}
		encoded, err := json.Marshal(d)
		if err != nil {
			return err
		}
		if size += len(encoded); size > maxReferrersPage && len(list) > 0 {
			query.Set("last", string(list[len(list)-1].Digest))
			linkNext(w, r, query)
			break
		}
		list = append(list, d)
	}
	if artifactType != "" {
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	writeJSON(w, http.StatusOK, image.MediaTypeIndex, &image.Index{
		SchemaVersion: 2, MediaType: image.MediaTypeIndex, Manifests: list,
	})
	return nil
}
