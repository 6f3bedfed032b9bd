package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/labstack/echo/v4"

	"github.com/swellfleet/swell/cloud/api/apimodel"
)

// operation is a route with its part of the contract.
type operation struct {
	route
	spec *openapi3.Operation
	item *openapi3.PathItem
}

// maxBytes is how long a body may be.
func (op operation) maxBytes() int64 {
	if n, ok := op.spec.Extensions["x-max-bytes"].(float64); ok {
		return int64(n)
	}
	return bodyLimit
}

// isFile says that the body is a file: nothing in it is the contract's.
func (op operation) isFile() bool {
	return op.spec.RequestBody != nil && op.spec.RequestBody.Value.Content["application/octet-stream"] != nil
}

// echoPath writes {name} as :name.
func echoPath(p string) string {
	return strings.NewReplacer("{", ":", "}", "").Replace(p)
}

// validate checks a request against the contract.
func (s *Server) validate(op operation, next echo.HandlerFunc) echo.HandlerFunc {
	known := map[string]bool{}
	for _, ps := range []openapi3.Parameters{op.spec.Parameters, op.item.Parameters} {
		for _, p := range ps {
			if p.Value.In == openapi3.ParameterInQuery {
				known[p.Value.Name] = true
			}
		}
	}
	rt := &routers.Route{Spec: s.spec, Path: op.path, PathItem: op.item, Method: op.method, Operation: op.spec}
	opts := &openapi3filter.Options{AuthenticationFunc: openapi3filter.NoopAuthenticationFunc, MultiError: true, ExcludeRequestBody: op.isFile()}
	return func(c echo.Context) error {
		req := c.Request()
		for k := range req.URL.Query() {
			if !known[k] {
				names := []string{}
				for n := range known {
					names = append(names, n)
				}
				slices.Sort(names)
				return invalid(fmt.Sprintf("query parameter %q is not known here; there are: %s", k, strings.Join(names, ", ")), apimodel.FieldError{Field: k, Message: "unknown"})
			}
		}
		params := map[string]string{}
		for i, n := range c.ParamNames() {
			params[n] = c.ParamValues()[i]
		}
		if err := op.known(req); err != nil {
			return err
		}
		err := openapi3filter.ValidateRequest(req.Context(), &openapi3filter.RequestValidationInput{Request: req, PathParams: params, Route: rt, Options: opts})
		if err != nil {
			return refusal(err)
		}
		return next(c)
	}
}

// known refuses a JSON body with fields that the contract does not have: a
// misspelt one would otherwise be a wish that nobody hears.
func (op operation) known(req *http.Request) error {
	if op.spec.RequestBody == nil || op.isFile() {
		return nil
	}
	form := op.spec.RequestBody.Value.Content["application/json"]
	if form == nil {
		return nil
	}
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return err
	}
	req.Body = io.NopCloser(bytes.NewReader(body))
	var doc any
	if json.Unmarshal(body, &doc) != nil {
		return nil // what comes next says why it cannot be read
	}
	var fields []apimodel.FieldError
	unknown(form.Schema.Value, doc, "", &fields)
	if len(fields) == 0 {
		return nil
	}
	said := make([]string, len(fields))
	for i, f := range fields {
		said[i] = f.Field + ": " + f.Message
	}
	return invalid(strings.Join(said, "; "), fields...)
}

// unknown collects the fields of v that its schema does not have.
func unknown(s *openapi3.Schema, v any, at string, out *[]apimodel.FieldError) {
	switch x := v.(type) {
	case []any:
		if s.Items == nil {
			return
		}
		for i, one := range x {
			unknown(s.Items.Value, one, fmt.Sprintf("%s[%d]", at, i), out)
		}
	case map[string]any:
		if free := s.AdditionalProperties; free.Schema != nil || free.Has != nil && *free.Has {
			return // its keys are the caller's own
		}
		for _, name := range slices.Sorted(maps.Keys(x)) {
			field := strings.TrimPrefix(at+"."+name, ".")
			if p := s.Properties[name]; p != nil {
				unknown(p.Value, x[name], field, out)
			} else if len(*out) < maxFields {
				*out = append(*out, apimodel.FieldError{Field: field, Message: "unknown; there are: " + strings.Join(slices.Sorted(maps.Keys(s.Properties)), ", ")})
			}
		}
	}
}

// maxFields bounds how many wrong fields one answer names.
const maxFields = 20

// refusal turns what the validator found into a problem that names fields.
func refusal(err error) error {
	if large, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return large
	}
	var fields []apimodel.FieldError
	collect(err, "", &fields)
	if len(fields) == 0 {
		return invalid(firstLine(err.Error()))
	}
	said := make([]string, len(fields))
	for i, f := range fields {
		said[i] = f.Field + ": " + f.Message
	}
	return invalid(strings.Join(said, "; "), fields...)
}

func collect(err error, at string, out *[]apimodel.FieldError) {
	if len(*out) >= maxFields {
		return
	}
	switch e := err.(type) {
	case openapi3.MultiError:
		for _, one := range e {
			collect(one, at, out)
		}
	case *openapi3filter.RequestError:
		if e.Parameter != nil {
			at = e.Parameter.Name
		} else {
			at = "body"
		}
		if e.Err == nil {
			*out = append(*out, apimodel.FieldError{Field: at, Message: firstLine(e.Reason)})
			return
		}
		collect(e.Err, at, out)
	case *openapi3.SchemaError:
		field := strings.Join(e.JSONPointer(), ".")
		if field == "" {
			field = at
		}
		*out = append(*out, apimodel.FieldError{Field: field, Message: e.Reason})
	default:
		*out = append(*out, apimodel.FieldError{Field: at, Message: firstLine(err.Error())})
	}
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// strictJSON reads bodies: an unknown field is an error, because a misspelt one
// would otherwise be a wish that nobody hears.
type strictJSON struct{}

// Serialize writes v.
func (strictJSON) Serialize(c echo.Context, v any, _ string) error {
	return json.NewEncoder(c.Response()).Encode(v)
}

// Deserialize reads the request's body into v.
func (strictJSON) Deserialize(c echo.Context, v any) error {
	d := json.NewDecoder(c.Request().Body)
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		if large, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return large
		}
		msg := strings.TrimPrefix(err.Error(), "json: ")
		if name, ok := strings.CutPrefix(msg, "unknown field "); ok {
			name = strings.Trim(name, `"`)
			return invalid("the body has a field that the contract does not know: "+name, apimodel.FieldError{Field: name, Message: "unknown"})
		}
		return invalid("the body is not the JSON that the contract asks for: " + msg)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return invalid("the body goes on after its JSON object")
	}
	return nil
}
