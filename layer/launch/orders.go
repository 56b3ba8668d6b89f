package launch

import (
	"fmt"
	"os"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"mirrord/layer/keeper"
)

func instructions(program []bpf.RawInstruction) []keeper.Instruction {
	list := make([]keeper.Instruction, len(program))
	for i, in := range program {
		list[i] = keeper.Instruction(in)
	}
	return list
}

// memfd writes the orders into a file without a name.
func memfd(o keeper.Orders) (*os.File, error) {
	fd, err := unix.MemfdCreate("mirrord-keeper", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("writing the keeper's orders: %w", err)
	}
	f := os.NewFile(uintptr(fd), "orders")
	if _, err := f.Write(o.Encode()); err != nil {
		f.Close()
		return nil, fmt.Errorf("writing the keeper's orders: %w", err)
	}
	if _, err := f.Seek(0, 0); err != nil {
		f.Close()
		return nil, fmt.Errorf("writing the keeper's orders: %w", err)
	}
	return f, nil
}
