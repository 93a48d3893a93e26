package main

import (
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tarnfs/tarn/engine"
)

// addNetworks adds the flags that say in which networks a container is, and how it is reached there.
func (f *containerFlags) addNetworks(cmd *cobra.Command, flags *pflag.FlagSet) {
	listVar(flags, &f.Networks, "network", "`network`: bridge, none, host, pasta[:OPTION,…], container:NAME or a name, with options NAME,alias=…,ip=…,ip6=…,mac-address=…; again for more (default bridge, without root pasta)")
	suggest(cmd, "network", "bridge", engine.NetworkNone, engine.NetworkHost, engine.NetworkPasta, "container:")
	listVarP(flags, &f.Publish, "publish", "p", "reach a port by one of the host: `[IP:][HOSTPORT:]PORT[/PROTOCOL]`, or ranges of them")
	flags.BoolVarP(&f.PublishAll, "publish-all", "P", false, "reach all exposed ports by any of the host")
	listVar(flags, &f.Expose, "expose", "say that the container serves `PORT[/PROTOCOL]`")
	flags.StringVar(&f.IP, "ip", "", "IPv4 `address` in the first network")
	flags.StringVar(&f.IP6, "ip6", "", "IPv6 `address` in the first network")
	flags.StringVar(&f.MAC, "mac-address", "", "`address` of the container's Ethernet device in the first network")
	listVar(flags, &f.Aliases, "network-alias", "another `name` by which containers of its networks find it")
	listVar(flags, &f.DNS, "dns", "`address` of a name server (default: the host's)")
	listVar(flags, &f.DNSSearch, "dns-search", "`domain` to look for names in; \".\" for none")
	listVar(flags, &f.DNSOptions, "dns-option", "`option` for resolv.conf")
	listVar(flags, &f.AddHosts, "add-host", "line of /etc/hosts: `NAME:IP`; host-gateway is the host's address")
	flags.SetNormalizeFunc(networkNames)
}

// networkNames knows Docker's older names of flags.
func networkNames(_ *pflag.FlagSet, name string) pflag.NormalizedName {
	old := []string{"net", "net-alias", "dns-opt"}
	if i := slices.Index(old, name); i >= 0 {
		name = []string{"network", "network-alias", "dns-option"}[i]
	}
	return pflag.NormalizedName(name)
}
