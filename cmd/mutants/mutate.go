package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"strings"
)

// mutant is one change of one file: the bytes from begin to end become text.
type mutant struct {
	dir, file  string // package directory, path of the file
	line       int
	begin, end int
	text       string
	what       string // the change in words
}

func (m mutant) String() string { return fmt.Sprintf("%s:%d: %s", m.file, m.line, m.what) }

// apply returns the file's text with the change.
func (m mutant) apply(source []byte) []byte {
	return fmt.Appendf(nil, "%s%s%s", source[:m.begin], m.text, source[m.end:])
}

// swaps are the operators that stand in for another one.
var swaps = map[token.Token][]token.Token{
	token.LSS: {token.LEQ, token.GEQ}, token.LEQ: {token.LSS, token.GTR},
	token.GTR: {token.GEQ, token.LEQ}, token.GEQ: {token.GTR, token.LSS},
	token.EQL: {token.NEQ}, token.NEQ: {token.EQL},
	token.LAND: {token.LOR}, token.LOR: {token.LAND},
	token.ADD: {token.SUB}, token.SUB: {token.ADD}, token.MUL: {token.QUO}, token.QUO: {token.MUL}, token.REM: {token.MUL},
	token.AND: {token.OR}, token.OR: {token.AND}, token.XOR: {token.AND}, token.AND_NOT: {token.AND},
	token.SHL: {token.SHR}, token.SHR: {token.SHL},
	token.INC: {token.DEC}, token.DEC: {token.INC},
	token.ADD_ASSIGN: {token.SUB_ASSIGN}, token.SUB_ASSIGN: {token.ADD_ASSIGN},
	token.OR_ASSIGN: {token.AND_ASSIGN}, token.AND_ASSIGN: {token.OR_ASSIGN}, token.AND_NOT_ASSIGN: {token.OR_ASSIGN},
	token.BREAK: {token.CONTINUE}, token.CONTINUE: {token.BREAK},
}

// finder collects the mutants of one file in the order of its text.
type finder struct {
	dir, path string
	files     *token.FileSet
	source    []byte
	results   []ast.Expr // of the function that is walked, one type for each result
	found     []mutant
}

// mutantsOf returns every mutant of a file.
func mutantsOf(dir, path string) ([]mutant, error) {
	source, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read source: %w", err)
	}
	f := finder{dir: dir, path: path, files: token.NewFileSet(), source: source}
	file, err := parser.ParseFile(f.files, path, source, parser.SkipObjectResolution)
	if err != nil {
		return nil, fmt.Errorf("parse source: %w", err)
	}
	f.walk(file)
	return f.found, nil
}

// walk visits a node and what is in it. A function in it has results of its own.
func (f *finder) walk(root ast.Node) {
	ast.Inspect(root, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			return f.function(n.Type, n.Body, n == root)
		case *ast.FuncLit:
			return f.function(n.Type, n.Body, n == root)
		case *ast.BinaryExpr:
			f.swap(n.OpPos, n.Op)
		case *ast.UnaryExpr:
			f.unary(n)
		case *ast.IncDecStmt:
			f.swap(n.TokPos, n.Tok)
			f.remove(n, "statement")
		case *ast.AssignStmt:
			f.swap(n.TokPos, n.Tok)
			if n.Tok != token.DEFINE {
				f.remove(n, "statement")
			}
		case *ast.BranchStmt:
			f.swap(n.TokPos, n.Tok)
		case *ast.ExprStmt, *ast.DeferStmt:
			f.remove(n, "statement")
		case *ast.IfStmt:
			f.replace(n.Cond, "("+f.text(n.Cond)+") || true", "the branch is always taken")
			f.replace(n.Cond, "("+f.text(n.Cond)+") && false", "the branch is never taken")
		case *ast.ForStmt:
			if n.Cond != nil {
				f.replace(n.Cond, "("+f.text(n.Cond)+") && false", "the loop is never run")
			}
		case *ast.CaseClause:
			for _, s := range n.Body[:min(1, len(n.Body))] {
				f.add(s.Pos(), n.End(), "", "remove the case's body")
			}
		case *ast.ReturnStmt:
			f.returns(n)
		}
		return true
	})
}

// function walks a function apart from what is around it, and reports whether the walk
// is to go on into it.
func (f *finder) function(t *ast.FuncType, body *ast.BlockStmt, inside bool) bool {
	if inside || body == nil {
		return inside
	}
	outer := f.results
	f.results = nil
	if t.Results != nil {
		for _, field := range t.Results.List {
			for range max(1, len(field.Names)) {
				f.results = append(f.results, field.Type)
			}
		}
	}
	f.walk(body)
	f.results = outer
	return false
}

func (f *finder) swap(at token.Pos, op token.Token) {
	for _, other := range swaps[op] {
		f.add(at, at+token.Pos(len(op.String())), other.String(), fmt.Sprintf("%s becomes %s", op, other))
	}
}

func (f *finder) unary(n *ast.UnaryExpr) {
	if n.Op == token.NOT || n.Op == token.SUB || n.Op == token.XOR {
		f.add(n.OpPos, n.OpPos+1, "", fmt.Sprintf("%s is gone", n.Op))
	}
}

// returns changes each result in turn: a bool to the opposite, any other to its zero value.
func (f *finder) returns(n *ast.ReturnStmt) {
	if len(n.Results) != len(f.results) {
		return // none, or a call that returns several
	}
	for i, result := range n.Results {
		switch was, kind := f.text(result), f.text(f.results[i]); {
		case kind == "bool":
			f.replace(result, "!("+was+")", "return the opposite of "+was)
		case was != "nil" && was != "0" && was != `""` && !strings.HasSuffix(was, "{}"):
			f.replace(result, "*new("+kind+")", "return a zero value instead of "+was)
		}
	}
}

func (f *finder) remove(n ast.Node, kind string) {
	f.replace(n, "", "remove the "+kind+" "+f.text(n))
}

func (f *finder) replace(n ast.Node, text, what string) { f.add(n.Pos(), n.End(), text, what) }

func (f *finder) add(from, to token.Pos, text, what string) {
	what, _, _ = strings.Cut(what, "\n")
	at := f.files.Position(from)
	f.found = append(f.found, mutant{f.dir, f.path, at.Line, at.Offset, f.files.Position(to).Offset, text, what})
}

func (f *finder) text(n ast.Node) string {
	return string(f.source[f.files.Position(n.Pos()).Offset:f.files.Position(n.End()).Offset])
}
