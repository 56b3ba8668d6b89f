package protocol

import "strings"

// String puts a filter into words: "header ^x-user: alice$".
func (f *Filter) String() string {
	switch {
	case f.Header != "":
		return "header " + f.Header
	case f.HeaderJQ != "":
		return "header jq " + f.HeaderJQ
	case f.Path != "":
		return "path " + f.Path
	case f.Method != "":
		return "method " + f.Method
	case f.Body != nil && f.Body.JQ:
		return "body jq " + f.Body.Query
	case f.Body != nil:
		return "body " + f.Body.Query + " matches " + f.Body.Matches
	case f.ServerName != "":
		return "server name " + f.ServerName
	case len(f.All) > 0:
		return joined(f.All, " and ")
	}
	return joined(f.Any, " or ")
}

func joined(all []Filter, by string) string {
	list := make([]string, len(all))
	for i := range all {
		list[i] = all[i].String()
		if len(all[i].All)+len(all[i].Any) > 0 {
			list[i] = "(" + list[i] + ")"
		}
	}
	return strings.Join(list, by)
}
