package engine

import (
	"context"
	"errors"

	"github.com/tarnfs/tarn/registry"
)

// Login checks a user's password (or token) with a registry, and keeps it where Docker does. "" is
// Docker Hub. It gives the registry's name.
func Login(ctx context.Context, opts RegistryOptions, registryName, user, password string) (string, error) {
	client, err := registry.New(opts)
	if err != nil {
		return "", err
	}
	return client.Login(ctx, registryName, user, password)
}

// Logout forgets a registry's credentials, and reports whether there were any.
func Logout(opts RegistryOptions, registryName string) (name string, known bool, err error) {
	client, err := registry.New(opts)
	if err != nil {
		return "", false, err
	}
	name, err = client.Logout(registryName)
	if errors.Is(err, registry.ErrNotFound) {
		return name, false, nil
	}
	return name, err == nil, err
}
