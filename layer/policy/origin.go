package policy

import (
	"strconv"
	"strings"
)

// origins are the settings that the rules of a kind come from, by what a rule
// begins with. What is not here is built in.
var origins = []struct{ rule, setting string }{
	{"fs mode ", "feature.fs.mode"},
	{"fs.", "feature.fs."},
	{mounted.Rule, "feature.magic.auto_mount"},
	{"dns", "feature.network.dns"},
	{"outgoing.", "feature.network.outgoing."},
	{"outgoing", "feature.network.outgoing"},
}

// Origin tells which setting a verdict comes from, and which of its patterns if
// it has some; "" for what is built in.
func (v Verdict) Origin() (setting, pattern string) {
	for _, o := range origins {
		rest, ok := strings.CutPrefix(v.Rule, o.rule)
		if !ok {
			continue
		}
		if !strings.HasSuffix(o.setting, ".") {
			return o.setting, ""
		}
		name, rest, _ := strings.Cut(rest, " ")
		if quoted, err := strconv.QuotedPrefix(rest); err == nil {
			pattern, _ = strconv.Unquote(quoted)
		}
		return o.setting + name, pattern
	}
	return "", ""
}

// Mapped is the path to use instead of a clean one, and the pattern of the
// mapping that says so; "" where none does.
func (p *Policy) Mapped(name string) (to, pattern string) {
	to, pattern, err := p.mapped(name)
	if err != nil {
		return name, ""
	}
	return to, pattern
}

// mapped tells with an error which pattern took too long.
func (p *Policy) mapped(name string) (to, pattern string, err error) {
	for _, m := range p.mapping {
		switch to, ok, err := m.apply(name); {
		case err != nil:
			return name, m.text, err
		case ok:
			return to, m.text, nil
		}
	}
	return name, "", nil
}

// MayBeMounted tells whether a path would be Remote if a volume of the target
// were mounted there or above.
func (v Verdict) MayBeMounted() bool {
	switch v.Rule {
	case defaultLocal.Rule, modeOverrides.Rule:
		return true
	}
	return false
}

// Name decides about the lookup of a host's name.
func (p *Policy) Name() Verdict {
	if p.set.DNS {
		return Verdict{Kind: Remote, Rule: "dns"}
	}
	return Verdict{Kind: Local, Rule: resolverOff.Rule}
}
