package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/tarnfs/tarn/engine"
	"github.com/tarnfs/tarn/internal/format"
)

func newNetworkCmd(a *app) *cobra.Command {
	return withMembers(&cobra.Command{
		Use:     "network COMMAND",
		GroupID: groupContainers,
		Short:   "Make, list and remove networks, and put containers into them",
		Long: `Make, list and remove networks, and put containers into them.

Containers of one network reach each other, in networks other than "bridge" also by name.
From one network to another nothing leads but published ports. "bridge" is the network of
containers that ask for none; it is made when it is first used. Networks are for root: without,
each container has the host's by pasta, see 'tarn run --help'.`,
		Example: `  tarn network create backend
  tarn run --rm --network backend --name db debian sleep 1000
  tarn run --rm --network backend debian getent hosts db
  tarn network inspect -f '{{json .Containers}}' backend`,
	}, newNetworkConnectCmd(a), newNetworkCreateCmd(a), newNetworkDisconnectCmd(a), newNetworkInspectCmd(a),
		newNetworkLsCmd(a), newNetworkPruneCmd(a), newNetworkRmCmd(a))
}

func newNetworkCreateCmd(a *app) *cobra.Command {
	var opts engine.NetworkCreateOptions
	cmd := &cobra.Command{
		Use:   "create [flags] NAME",
		Short: "Make a network",
		Long: `Make a network, and print its ID. What is not said is chosen: a subnet that this machine does
not use yet, its first address as the gateway.

Options of the driver: com.docker.network.bridge.name=DEVICE, mtu=BYTES (or
com.docker.network.driver.mtu), com.docker.network.bridge.enable_icc=false (its containers do
not reach each other), com.docker.network.bridge.enable_ip_masquerade=false,
com.docker.network.bridge.host_binding_ipv4=IP.`,
		Example: `  tarn network create --subnet 10.1.0.0/16 --gateway 10.1.0.254 --ip-range 10.1.5.0/24 backend
  tarn network create --ipv6 --subnet fd00:1::/64 six
  tarn network create --internal vault`,
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.Name = args[0]
			e, err := a.engine()
			if err != nil {
				return err
			}
			id, err := e.CreateNetwork(cmd.Context(), opts)
			if err == nil {
				fmt.Fprintln(cmd.OutOrStdout(), id)
			}
			return err
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	flags := cmd.Flags()
	flags.StringVarP(&opts.Driver, "driver", "d", "bridge", "`name` of the driver: there is only bridge")
	listVar(flags, &opts.Subnets, "subnet", "`addresses` of the network, as 10.1.0.0/16: one of IPv4, and one of IPv6")
	listVar(flags, &opts.Gateways, "gateway", "the host's `address` in a subnet")
	listVar(flags, &opts.Ranges, "ip-range", "`addresses` in a subnet that containers get")
	flags.BoolVar(&opts.IPv6, "ipv6", false, "IPv6, too")
	flags.BoolVar(&opts.Internal, "internal", false, "nothing leads out of the network")
	listVar(flags, &opts.Labels, "label", "label: `KEY=value`, or KEY")
	listVarP(flags, &opts.Options, "opt", "o", "option of the driver: `KEY=value`")
	return cmd
}

func newNetworkInspectCmd(a *app) *cobra.Command {
	return newInspectOfCmd(a, engine.KindNetwork, a.networkNames, &cobra.Command{
		Use:     "inspect [flags] NETWORK...",
		Short:   "Describe networks in full, as JSON",
		Example: `  tarn network inspect -f '{{(index .IPAM.Config 0).Subnet}}' bridge`,
	})
}

// networkRow is a network as --format sees it.
type networkRow struct {
	ID, Name, Driver, Scope, IPv4, IPv6, Internal, Labels, CreatedAt string

	label func(key string) string
}

// Label gives one label's value.
func (r networkRow) Label(key string) string { return r.label(key) }

func newNetworkLsCmd(a *app) *cobra.Command {
	var (
		list    listing
		filters []string
	)
	cmd := &cobra.Command{
		Use:     "ls [flags]",
		Aliases: []string{"list"},
		Short:   "List networks",
		Long: `List networks, by name.

Filters: name=PART, id=PREFIX, driver=bridge, label=KEY[=VALUE], label!=KEY[=VALUE],
until=TIME, dangling=true|false (whether no container has it).
Fields for --format: .ID .Name .Driver .Scope .IPv4 .IPv6 .Internal .Labels .Label "KEY"
.CreatedAt`,
		Example: `  tarn network ls --format '{{.Name}}: {{.IPv4}}'`,
		Args:    arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			filter, err := engine.ParseNetworkFilter(filters, time.Now())
			if err != nil {
				return err
			}
			template, err := list.template("ID", "Name", "Driver", "Scope")
			if err != nil {
				return err
			}
			e, err := a.engine()
			if err != nil {
				return err
			}
			networks, err := e.Networks(cmd.Context(), filter)
			if err != nil {
				return err
			}
			rows := make([]networkRow, 0, len(networks))
			for _, n := range networks {
				row := networkRow{
					ID: list.hexID(n.ID), Name: n.Name, Driver: n.Driver, Scope: "local", IPv4: n.IPv4().Subnet.String(),
					Internal: strconv.FormatBool(n.Internal), Labels: joinLabels(n.Labels), CreatedAt: timestamp(n.Created),
					label: func(key string) string { return format.OneLine(n.Labels[key]) },
				}
				if v6, ok := n.IPv6(); ok {
					row.IPv6 = v6.Subnet.String()
				}
				rows = append(rows, row)
			}
			return format.Execute(cmd.OutOrStdout(), template, networkRow{
				"NETWORK ID", "NAME", "DRIVER", "SCOPE", "IPV4", "IPV6", "INTERNAL", "LABELS", "CREATED AT", labelTitle,
			}, rows)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	flags := cmd.Flags()
	list.addFlags(flags, "networks")
	listVarP(flags, &filters, "filter", "f", "list only networks with `KEY=VALUE`")
	suggest(cmd, "filter", "name=", "id=", "driver=", "label=", "until=", "dangling=")
	return cmd
}

func newNetworkRmCmd(a *app) *cobra.Command {
	return newRmOfCmd(a, a.networkNames, engine.ErrNoNetwork, &cobra.Command{
		Use:     "rm [flags] NETWORK...",
		Short:   "Remove networks",
		Long:    `Remove networks. One that a running container is in is not removed.`,
		Example: `  tarn network rm backend`,
	}, func(ctx context.Context, e *engine.Engine, name string) error { return e.RemoveNetwork(ctx, name) })
}

func newNetworkConnectCmd(a *app) *cobra.Command {
	var opts engine.ConnectOptions
	cmd := &cobra.Command{
		Use:   "connect [flags] NETWORK CONTAINER",
		Short: "Put a container into a network",
		Long: `Put a container into a network: at once if it runs, and each time it is started. One in the
foreground that has found no names yet finds those of the network's containers when it is
started again.`,
		Example: `  tarn network connect --alias cache backend work`,
		Args:    arguments(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			return e.ConnectNetwork(cmd.Context(), args[0], args[1], opts)
		},
		ValidArgsFunction: complete(1, a.networkNames),
	}
	flags := cmd.Flags()
	flags.StringVar(&opts.IP, "ip", "", "IPv4 `address`")
	flags.StringVar(&opts.IP6, "ip6", "", "IPv6 `address`")
	listVar(flags, &opts.Aliases, "alias", "another `name` by which containers of the network find it")
	return cmd
}

func newNetworkDisconnectCmd(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "disconnect NETWORK CONTAINER",
		Short:   "Take a container out of a network",
		Long:    `Take a container out of a network: at once if it runs, with the ports that are published there.`,
		Example: `  tarn network disconnect backend work`,
		Args:    arguments(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			return e.DisconnectNetwork(cmd.Context(), args[0], args[1])
		},
		ValidArgsFunction: complete(1, a.networkNames),
	}
	return cmd
}

// networkNames are for completion.
func (a *app) networkNames(cmd *cobra.Command) ([]string, error) {
	e, err := a.engine()
	if err != nil {
		return nil, err
	}
	networks, err := e.Networks(cmd.Context(), engine.NetworkFilter{})
	if err != nil {
		return nil, err
	}
	var names []string
	for _, n := range networks {
		names = append(names, n.Name)
	}
	return names, nil
}
