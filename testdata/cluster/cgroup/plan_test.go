package cgroup

import (
	"slices"
	"testing"
)

const v1Mounts = `31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:7 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
`

func TestPlan(t *testing.T) {
	for _, tt := range []struct {
		name, mounts, self string
		want               []Group
	}{
		{
			"version 1 nests below the caller", v1Mounts,
			"9:name=systemd:/\n4:memory:/user/a\n1:cpu,cpuacct:/\n0::/\n",
			[]Group{
				{"name=systemd", "/sys/fs/cgroup/systemd/c"},
				{"memory", "/sys/fs/cgroup/memory/user/a/c"},
				{"cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct/c"},
			},
		},
		{
			"unmounted hierarchies are left out", v1Mounts,
			"4:memory:/\n3:rdma:/\n",
			[]Group{{"memory", "/sys/fs/cgroup/memory/c"}},
		},
		{
			"a container's mount shows only its own part",
			"35 31 0:32 /docker/1 /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n",
			"4:memory:/docker/1\n",
			[]Group{{"memory", "/sys/fs/cgroup/memory/c"}},
		},
		{
			"a stray version 1 hierarchy does not count",
			"30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n31 23 0:27 / /mnt/net_cls rw - cgroup cgroup rw,net_cls\n",
			"1:net_cls:/\n0::/user.slice\n",
			[]Group{{"", "/sys/fs/cgroup/c"}},
		},
		{
			"version 2 lies at the top",
			"30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n",
			"0::/user.slice/session-1.scope\n",
			[]Group{{"", "/sys/fs/cgroup/c"}},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := plan(tt.mounts, tt.self, "c")
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got  %v\nwant %v", got, tt.want)
			}
		})
	}
}

func TestPlanErrors(t *testing.T) {
	for name, in := range map[string][2]string{
		"nothing mounted":   {"31 23 0:28 / / rw - ext4 /dev/vda rw\n", "4:memory:/\n"},
		"outside the mount": {"35 31 0:32 /docker/1 /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n", "4:memory:/\n"},
	} {
		if got, err := plan(in[0], in[1], "c"); err == nil {
			t.Errorf("%s: got %v, want an error", name, got)
		}
	}
}
