package config

import (
	"fmt"
	"io"

	"go.yaml.in/yaml/v3"
)

// Secret is a text that no printer shows: not fmt with any verb, not JSON, YAML or
// slog, and not reflection over an unexported field that holds it.
type Secret struct{ text *string }

const redacted = "[redacted]"

// NewSecret hides text; an empty one is no secret.
func NewSecret(text string) Secret {
	if text == "" {
		return Secret{}
	}
	return Secret{&text}
}

// Reveal is the text.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// IsZero tells that there is none.
func (s Secret) IsZero() bool { return s.text == nil }

func (s Secret) String() string {
	if s.IsZero() {
		return ""
	}
	return redacted
}

// Format prints the same for every verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// MarshalText hides the text in JSON, YAML and slog.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalYAML reads the text. Its errors do not quote it.
func (s *Secret) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind != yaml.ScalarNode {
		return fmt.Errorf("want a text")
	}
	*s = NewSecret(n.Value)
	return nil
}
