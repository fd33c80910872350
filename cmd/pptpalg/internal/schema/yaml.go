package schema

import (
	"bytes"
	"encoding/json"
	"fmt"

	"go.yaml.in/yaml/v3"
)

// YAML returns a value in YAML, with the names and in the order of its JSON, which YAML includes.
func YAML(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(b, &doc); err != nil {
		return nil, fmt.Errorf("write YAML: %w", err)
	}
	spread(&doc)
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := enc.Encode(&doc); err != nil {
		return nil, fmt.Errorf("write YAML: %w", err)
	}
	return out.Bytes(), enc.Close()
}

// spread takes the form of JSON from a document: braces, brackets and needless quotes.
func spread(n *yaml.Node) {
	n.Style = 0
	for _, child := range n.Content {
		spread(child)
	}
}
