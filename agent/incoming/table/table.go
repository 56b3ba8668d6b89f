// Package table makes nftables tables that are gone with their process: the
// kernel removes a table with the socket that owns it, and keeps all others
// from changing it.
package table

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const flagOwner = 2 // NFT_TABLE_F_OWNER

// A Table is one of family inet. Its connection's methods change it, with
// their next Flush.
type Table struct {
	*nftables.Conn
	*nftables.Table
}

// Open makes an empty table.
func Open(name string) (*Table, error) {
	t := &Table{Table: &nftables.Table{Name: name, Family: nftables.TableFamilyINet}}
	var raw *netlink.Conn
	var err error
	t.Conn, err = nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
		raw = c
		return nil
	}))
	if err != nil {
		return nil, fmt.Errorf("opening nftables: %w", err)
	}
	if err := own(raw, t.Table); err != nil {
		return nil, errors.Join(fmt.Errorf("making nftables table %s: %w (it needs CAP_NET_ADMIN, and Linux 5.12 or newer with CONFIG_NF_TABLES_INET)", name, err), t.CloseLasting())
	}
	return t, nil
}

// own makes a table that c owns, which nftables.Conn has no way to say.
func own(c *netlink.Conn, t *nftables.Table) error {
	attributes, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: unix.NFTA_TABLE_NAME, Data: []byte(t.Name + "\x00")},
		{Type: unix.NFTA_TABLE_FLAGS, Data: binaryutil.BigEndian.PutUint32(flagOwner)},
	})
	if err != nil {
		return err
	}
	message := func(kind netlink.HeaderType, flags netlink.HeaderFlags, family nftables.TableFamily, resource uint16, rest []byte) netlink.Message {
		return netlink.Message{
			Header: netlink.Header{Type: kind, Flags: netlink.Request | flags},
			Data:   append([]byte{byte(family), unix.NFNETLINK_V0, byte(resource >> 8), byte(resource)}, rest...),
		}
	}
	_, err = c.SendMessages([]netlink.Message{
		message(unix.NFNL_MSG_BATCH_BEGIN, 0, 0, unix.NFNL_SUBSYS_NFTABLES, nil),
		message(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWTABLE, netlink.Acknowledge|netlink.Create|netlink.Excl, t.Family, 0, attributes),
		message(unix.NFNL_MSG_BATCH_END, 0, 0, unix.NFNL_SUBSYS_NFTABLES, nil),
	})
	if err != nil {
		return err
	}
	_, err = c.Receive()
	return err
}

// Close removes the table.
func (t *Table) Close() error { return t.CloseLasting() }
