package policy

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/dlclark/regexp2"

	dialect "mirrord/protocol/pattern"
)

// patternTime bounds one match: a pattern with references can take for ever,
// and a trapped call waits for it.
const patternTime = 20 * time.Millisecond

// A pattern is a user's regular expression, without regard to case. Most are
// Go's; those with look-around or references are not, and slower.
type pattern struct {
	fast *regexp.Regexp
	slow *regexp2.Regexp
}

func compile(text string) (pattern, error) {
	if fast, err := regexp.Compile("(?i:" + text + ")"); err == nil && dialect.Check(text) == nil {
		return pattern{fast: fast}, nil
	}
	slow, err := dialect.Compile(text, true, patternTime)
	if err != nil {
		return pattern{}, fmt.Errorf("reading pattern %q: %w", text, err)
	}
	return pattern{slow: slow}, nil
}

func (p pattern) match(s string) (bool, error) {
	if p.fast != nil {
		return p.fast.MatchString(s), nil
	}
	return p.slow.MatchString(s)
}

func (p pattern) replace(s, with string) (string, error) {
	if p.fast != nil {
		return p.fast.ReplaceAllString(s, with), nil
	}
	return p.slow.Replace(s, with, -1, -1)
}

type rule struct {
	pattern
	verdict Verdict
	timeout Verdict // where the pattern took too long
}

type mapping struct {
	pattern
	text string // of the pattern
	with string
}

// apply tells what m makes of name. False: nothing. An error: it took too long.
func (m *mapping) apply(name string) (to string, ok bool, err error) {
	if ok, err = m.match(name); err != nil || !ok {
		return "", false, err
	}
	to, err = m.replace(name, m.with)
	return to, err == nil && len(to) > 0 && to[0] == '/', err
}

func (p *Policy) addRules(setting string, v Verdict, patterns []string) error {
	var errs []error
	for _, text := range patterns {
		c, err := compile(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("fs.%s: %w", setting, err))
			continue
		}
		v.Rule = fmt.Sprintf("fs.%s %q", setting, text)
		p.rules = append(p.rules, rule{c, v, Verdict{Kind: Refused, Rule: v.Rule + " took too long"}})
	}
	return errors.Join(errs...)
}

// addMapping adds m in the order of its patterns: the order of the file is not known.
func (p *Policy) addMapping(m map[string]string) error {
	var errs []error
	for _, text := range slices.Sorted(maps.Keys(m)) {
		c, err := compile(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("fs.mapping: %w", err))
			continue
		}
		p.mapping = append(p.mapping, mapping{c, text, m[text]})
	}
	return errors.Join(errs...)
}

func (p *Policy) matchRules(name string) (Verdict, bool) {
	for _, r := range p.rules {
		switch ok, err := r.match(name); {
		case err != nil:
			return r.timeout, true
		case ok:
			return r.verdict, true
		}
	}
	return Verdict{}, false
}

// cacheSize bounds the cache; programs open few paths, and those often.
const cacheSize = 8192

// A cache remembers what patterns decided.
type cache struct {
	mu    sync.RWMutex
	known map[string]Verdict // guarded by mu
}

func (c *cache) get(name string) (Verdict, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	v, ok := c.known[name]
	return v, ok
}

func (c *cache) put(name string, v Verdict) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known == nil || len(c.known) >= cacheSize {
		c.known = make(map[string]Verdict)
	}
	c.known[name] = v
}
