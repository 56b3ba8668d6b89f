package incoming

// No later packet tells that a connection's last ones were missed. The pod's sockets
// do: they are asked where the ring has lost something, and the answer is compared
// when all that was in the ring then has been read.

// ask notes how much the pod has got of each flow. The caller has mu.
func (m *mirrors) ask() error {
	received := map[flowKey]uint64{}
	asked := map[uint16]bool{}
	for k := range m.flows {
		port := k.pod.Port()
		if asked[port] {
			continue
		}
		asked[port] = true
		err := dump(port, liveStates|otherStates, func(c *established) {
			received[flowKey{c.remote(), c.local()}] = c.info.Bytes_received
		})
		if err != nil {
			return err
		}
	}
	for k, f := range m.flows {
		n, ok := received[k]
		f.over, f.received = f.open && !ok, n
	}
	return nil
}

// misses reports that a flow has less than the pod had when that was asked.
func (f *flow) misses() bool {
	return f.over || f.open && f.assembly.Lacks(f.received)
}
