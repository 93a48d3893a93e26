// Package image holds the nouns of container images: digests, references, platforms,
// configurations, manifests and indexes. It is data only: nothing here reads a disk or a network.
//
// Whatever is parsed here comes from an archive or a registry and is taken as hostile: sizes are
// bounded, keys that two parsers could read differently are refused, and the bytes as they
// came are kept, since they are what a digest names.
//
// The formats are the OCI image specification 1.1 and Docker's image manifest version 2,
// schema 2, with Docker's additions to the image configuration.
package image
