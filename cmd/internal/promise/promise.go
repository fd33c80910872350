// Package promise holds what pptpalg prints for programs against docs/schema. Tests use it.
package promise

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// base is what the schemas' names follow.
const base = "https://pptpalg.invalid/schema/1/"

// compiler has all schemas of docs/schema. Readers must expect fields that are new: the
// schemas allow any. For tests they do not, so that none is forgotten.
var compiler = sync.OnceValues(func() (*jsonschema.Compiler, error) {
	_, here, _, _ := runtime.Caller(0)
	files, err := filepath.Glob(filepath.Join(filepath.Dir(here), "../../../docs/schema/*.json"))
	if err != nil {
		return nil, err
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		if err := c.AddResource(base+filepath.Base(file), strict(doc)); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
	}
	return c, nil
})

// strict closes all objects whose properties are known.
func strict(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for _, child := range v {
			strict(child)
		}
		if _, known := v["properties"].(map[string]any); known && v["type"] == "object" {
			v["additionalProperties"] = false
		}
	case []any:
		for _, child := range v {
			strict(child)
		}
	}
	return v
}

// Check says how a document differs from the schema of that name, nil if it does not.
func Check(name string, document []byte) error {
	s, err := schemaOf(name)
	if err != nil {
		return err
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(document))
	if err != nil {
		return err
	}
	if err := s.Validate(v); err != nil {
		var short bytes.Buffer
		_ = json.Compact(&short, document) // it was read above
		return fmt.Errorf("%w\nin %.2000s", err, short.Bytes())
	}
	return nil
}

var compiling sync.Mutex // a compiler is for one goroutine

func schemaOf(name string) (*jsonschema.Schema, error) {
	c, err := compiler()
	if err != nil {
		return nil, err
	}
	compiling.Lock()
	defer compiling.Unlock()
	return c.Compile(base + name + ".json")
}
