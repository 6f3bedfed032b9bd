// Package expr is the language in which a policy's own gates are written: CEL
// over the numbers that the devices of a wave report.
//
// The parties are the person who writes an expression into a policy, and
// package rollout, which compiles it when the policy is created and asks it at
// each decision. It promises that an expression knows the declared numbers and
// nothing else (no clock, no chance, no text, no loops), so that equal numbers
// give equal answers in bounded time; and that what an expression mentions and
// nobody has measured gives no answer, whatever the rest of it says.
//
// All numbers are floating point, so 2 and 2.0 are the same. The package is
// pure. cloud/rollout imports it.
package expr

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/common/env"
	"github.com/google/cel-go/common/operators"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
)

// Variable is a number that an expression may mention.
type Variable struct {
	Name string
	Doc  string // with the unit, and when it is missing
}

// Variables are all of them beside metrics.NAME.STATISTIC.
var Variables = []Variable{
	{"wave.devices", "devices drawn into the wave; missing until one of them is done or has failed, as are all counts of the wave"},
	{"wave.started", "devices that have begun"},
	{"wave.done", "devices that have confirmed the release and attest it"},
	{"wave.failed", "devices that failed, fell silent or went back by themselves"},
	{"wave.away", "devices that were offered the release and have not been heard of"},
	{"wave.in_flight", "devices on their way"},
	{"wave.done_share", "done over done and failed, 0 to 1"},
	{"wave.failed_share", "failed over done and failed, 0 to 1"},
	{"windows", "windows that the release has scored, in the shadow and after; missing when none"},
	{"non_finite", "scores of the release that were NaN or infinite; missing when it has scored none"},
	{"non_finite_share", "non_finite over windows, 0 to 1"},
	{"lost", "windows that the devices lost since they were offered the release; missing when none was due"},
	{"lost_share", "lost over lost and scored, 0 to 1"},
	{"latency_p99_ms", "the slowest device's 99th percentile of one inference, in ms"},
	{"memory_growth_mib", "the most that a device's resident memory has grown since it was offered the release, in MiB; missing where it was not reported before"},
	{"drift", "the worst device's population stability index of the release's scores against those it was calibrated on"},
	{"shadow.windows", "counting windows of the shadow; missing when none, as are all numbers of the shadow"},
	{"shadow.items", "windows that both models have scored"},
	{"shadow.only_challenger", "of those, flagged by the new release alone"},
	{"shadow.only_champion", "of those, flagged by the one before alone"},
	{"shadow.ratio", "only_challenger over only_champion; missing while the latter is 0"},
}

// Statistics are the last words of metrics.NAME.STATISTIC, over the wave's
// devices that report the metric.
var Statistics = []Variable{
	{"max", "the largest"},
	{"min", "the smallest"},
	{"mean", "the mean"},
	{"sum", "the sum"},
	{"devices", "how many devices report it"},
}

const (
	maxText  = 1024
	maxDepth = 50
	maxCost  = 100000
)

// environment is the language with all but the metrics, which each expression
// names for itself.
var environment = func() *cel.Env {
	var keep []*env.Function
	for _, name := range []string{
		operators.Conditional, operators.LogicalAnd, operators.LogicalOr, operators.LogicalNot, operators.Equals, operators.NotEquals,
		operators.Less, operators.LessEquals, operators.Greater, operators.GreaterEquals,
		operators.Add, operators.Subtract, operators.Multiply, operators.Negate,
	} {
		keep = append(keep, env.NewFunction(name))
	}
	options := []cel.EnvOption{
		cel.StdLib(cel.StdLibSubset(&env.LibrarySubset{DisableMacros: true, IncludeFunctions: keep})),
		cel.Function(operators.Divide, cel.Overload("divide_numbers", []*cel.Type{cel.DoubleType, cel.DoubleType}, cel.DoubleType, cel.BinaryBinding(divide))),
		cel.ParserExpressionSizeLimit(maxText), cel.ParserRecursionLimit(maxDepth), cel.ParserErrorRecoveryLimit(3),
	}
	for _, v := range Variables {
		options = append(options, cel.Variable(v.Name, cel.DoubleType))
	}
	e, err := cel.NewCustomEnv(options...)
	if err != nil {
		panic(fmt.Sprintf("expr: the language does not hold together: %v", err)) // a bug
	}
	return e
}()

// divide refuses what has no value, which would compare as false with anything.
func divide(a, b ref.Val) ref.Val {
	x, y := float64(a.(types.Double)), float64(b.(types.Double))
	if y == 0 {
		return types.NewErr("division by zero")
	}
	return types.Double(x / y)
}

// Program is an expression that was understood.
type Program struct {
	text  string
	names []string // what it mentions, sorted
	run   cel.Program
}

// Compile reads an expression. The error says at which line and column it is
// wrong, and why.
func Compile(text string) (*Program, error) {
	if strings.TrimSpace(text) == "" {
		return nil, errors.New("the expression is empty: write a condition as latency_p99_ms < 20")
	}
	if len(text) > maxText {
		return nil, fmt.Errorf("the expression has %d bytes: at most %d", len(text), maxText)
	}
	parsed, issues := environment.Parse(text)
	if err := explain(issues); err != nil {
		return nil, err
	}
	if ast.ExceedsDepth(parsed.NativeRep(), maxDepth) {
		return nil, fmt.Errorf("the expression is nested deeper than %d", maxDepth)
	}
	metrics, err := prepare(parsed.NativeRep())
	if err != nil {
		return nil, err
	}
	e := environment
	if len(metrics) > 0 {
		var more []cel.EnvOption
		for _, m := range metrics {
			more = append(more, cel.Variable(m, cel.DoubleType))
		}
		if e, err = e.Extend(more...); err != nil {
			return nil, fmt.Errorf("declare %s: %w", strings.Join(metrics, ", "), err)
		}
	}
	checked, issues := e.Check(parsed)
	if err := explain(issues); err != nil {
		return nil, err
	}
	if !checked.OutputType().IsExactType(cel.BoolType) {
		return nil, fmt.Errorf("the expression is no condition: it gives a %s: compare it with something", checked.OutputType())
	}
	p := &Program{text: text}
	for _, r := range checked.NativeRep().ReferenceMap() {
		if r.Name != "" {
			p.names = append(p.names, r.Name)
		}
	}
	slices.Sort(p.names)
	p.names = slices.Compact(p.names)
	if len(p.names) == 0 {
		return nil, errors.New("the expression mentions nothing that devices report: it would always say the same")
	}
	if p.run, err = e.Program(checked, cel.CostLimit(maxCost)); err != nil {
		return nil, fmt.Errorf("plan the expression: %w", err)
	}
	return p, nil
}

// prepare makes floating point numbers of all numbers, and returns the metrics
// that an expression mentions.
func prepare(a *ast.AST) (metrics []string, err error) {
	factory := ast.NewExprFactory()
	at := func(e ast.Expr) string {
		for e.Kind() == ast.SelectKind { // which is at its dot
			e = e.AsSelect().Operand()
		}
		l := a.SourceInfo().GetStartLocation(e.ID())
		return fmt.Sprintf("line %d, column %d", l.Line(), l.Column()+1)
	}
	inside := map[int64]bool{} // parts of a metric's name
	ast.PreOrderVisit(a.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if err != nil {
			return
		}
		switch e.Kind() {
		case ast.LiteralKind:
			switch v := e.AsLiteral().(type) {
			case types.Int:
				e.SetKindCase(factory.NewLiteral(e.ID(), types.Double(v)))
			case types.Uint:
				e.SetKindCase(factory.NewLiteral(e.ID(), types.Double(v)))
			}
		case ast.SelectKind, ast.IdentKind:
			if inside[e.ID()] {
				return
			}
			name := dotted(e, inside)
			words := strings.Split(name, ".")
			switch {
			case name == "" || declared(Variables, name): // e.g. a field of a number, which the checker refuses
			case words[0] != "metrics":
				err = fmt.Errorf("%s: there is no number %q: there are %s and metrics.NAME.STATISTIC", at(e), name, names(Variables))
			case len(words) != 3:
				err = fmt.Errorf("%s: name one metric and one statistic, as metrics.oil_celsius.max; statistics are %s", at(e), names(Statistics))
			case !declared(Statistics, words[2]):
				err = fmt.Errorf("%s: %q is no statistic of metrics.%s: there are %s", at(e), words[2], words[1], names(Statistics))
			default:
				metrics = append(metrics, name)
			}
		}
	}))
	slices.Sort(metrics)
	return slices.Compact(metrics), err
}

// dotted returns the name that selections spell, as "wave.done", and notes the
// parts of it; "" for what is no name.
func dotted(e ast.Expr, parts map[int64]bool) string {
	switch e.Kind() {
	case ast.IdentKind:
		return e.AsIdent()
	case ast.SelectKind:
		if head := dotted(e.AsSelect().Operand(), parts); head != "" {
			parts[e.AsSelect().Operand().ID()] = true
			return head + "." + e.AsSelect().FieldName()
		}
	}
	return ""
}

func declared(vs []Variable, name string) bool {
	return slices.ContainsFunc(vs, func(v Variable) bool { return v.Name == name })
}

func names(vs []Variable) string {
	var out []string
	for _, v := range vs {
		out = append(out, v.Name)
	}
	return strings.Join(out, ", ")
}

// explain makes one sentence of what the compiler found.
func explain(issues *cel.Issues) error {
	if issues.Err() == nil {
		return nil
	}
	var says []string
	for _, e := range issues.Errors() {
		what, _, _ := strings.Cut(e.Message, " (in container '')")
		says = append(says, fmt.Sprintf("line %d, column %d: %s", e.Location.Line(), e.Location.Column()+1, what))
		if len(says) == 3 {
			break
		}
	}
	return errors.New(strings.Join(says, "; "))
}

// Names returns what the expression mentions, sorted.
func (p *Program) Names() []string { return slices.Clone(p.names) }

// Look returns a number and how many devices it rests on; 0 devices is missing.
type Look func(name string) (value float64, devices int)

// Eval asks the expression. devices is the smallest number of devices that
// anything it mentions rests on. An error says why there is no answer: above
// all, because something that it mentions is missing.
func (p *Program) Eval(look Look) (holds bool, devices int, err error) {
	facts := make(map[string]any, len(p.names))
	var missing []string
	devices = math.MaxInt
	for _, name := range p.names {
		v, n := look(name)
		devices = min(devices, n)
		if n == 0 || math.IsNaN(v) || math.IsInf(v, 0) {
			missing = append(missing, name)
		}
		facts[name] = v
	}
	if len(missing) > 0 {
		return false, 0, fmt.Errorf("no device has reported %s yet", strings.Join(missing, ", "))
	}
	out, _, err := p.run.Eval(facts)
	if err != nil {
		return false, devices, fmt.Errorf("the expression has no answer: %w", err)
	}
	return out == types.True, devices, nil
}

// Says returns what the expression looks at, with the numbers: "a is 1, b is 2".
func (p *Program) Says(look Look) string {
	var out []string
	for _, name := range p.names {
		if v, n := look(name); n > 0 {
			out = append(out, fmt.Sprintf("%s is %.4g", name, v))
		}
	}
	return strings.Join(out, ", ")
}
