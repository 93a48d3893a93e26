package firewall

import (
	"bytes"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// changeForeign changes the FORWARD chains that iptables keeps (table filter, of IPv4 and IPv6), where their policy is to
// drop what no rule of theirs decides: Docker and ufw set that policy, and a packet has to pass all chains, not
// ours alone.
func changeForeign(c *nftables.Conn, bridge string, change func(*nftables.Conn, *nftables.Chain, []*nftables.Rule, string) error) error {
	for _, family := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6} {
		// As in Ensure: an error is nearly always that it is not there.
		chain, err := c.ListChain(&nftables.Table{Name: "filter", Family: family}, "FORWARD")
		if err != nil || chain.Policy == nil || *chain.Policy != nftables.ChainPolicyDrop {
			continue
		}
		chain.Table.Family = family
		rules, err := c.GetRules(chain.Table, chain)
		if err == nil {
			err = change(c, chain, rules, bridge)
		}
		if err != nil {
			return explained("change the rules of iptables for "+bridge, err)
		}
	}
	return explained("change the rules of iptables for "+bridge, c.Flush())
}

// admit has a chain let a network's packets through. The rules are the last ones there, so what somebody forbids explicitly
// stays forbidden; what may come to the network at all, its own chain decides.
func admit(c *nftables.Conn, chain *nftables.Chain, rules []*nftables.Rule, bridge string) error {
	for _, key := range []expr.MetaKey{expr.MetaKeyIIFNAME, expr.MetaKeyOIFNAME} {
		if len(admitting(rules, key, bridge)) == 0 {
			c.AddRule(&nftables.Rule{Table: chain.Table, Chain: chain, Exprs: acceptAt(key, bridge)})
		}
	}
	return nil
}

// dismiss takes these rules back.
func dismiss(c *nftables.Conn, chain *nftables.Chain, rules []*nftables.Rule, bridge string) error {
	for _, key := range []expr.MetaKey{expr.MetaKeyIIFNAME, expr.MetaKeyOIFNAME} {
		for _, r := range admitting(rules, key, bridge) {
			if err := c.DelRule(&nftables.Rule{Table: chain.Table, Chain: chain, Handle: r.Handle}); err != nil {
				return err
			}
		}
	}
	return nil
}

// acceptAt is a rule as iptables writes and reads it: `-i BRIDGE -j ACCEPT`, with a counter.
func acceptAt(key expr.MetaKey, bridge string) []expr.Any {
	return concat(
		[]expr.Any{&expr.Meta{Key: key, Register: 1}}, equal(append([]byte(bridge), 0)),
		[]expr.Any{&expr.Counter{}}, verdict(expr.VerdictAccept, ""))
}

// admitting finds such rules.
func admitting(rules []*nftables.Rule, key expr.MetaKey, bridge string) []*nftables.Rule {
	var found []*nftables.Rule
	for _, r := range rules {
		if len(r.Exprs) != 4 {
			continue
		}
		meta, ok1 := r.Exprs[0].(*expr.Meta)
		name, ok2 := r.Exprs[1].(*expr.Cmp)
		_, ok3 := r.Exprs[2].(*expr.Counter)
		then, ok4 := r.Exprs[3].(*expr.Verdict)
		if ok1 && ok2 && ok3 && ok4 && meta.Key == key && name.Op == expr.CmpOpEq && then.Kind == expr.VerdictAccept &&
			string(bytes.TrimRight(name.Data, "\x00")) == bridge {
			found = append(found, r)
		}
	}
	return found
}
