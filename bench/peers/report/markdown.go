// The Markdown page.

package main

import (
	"bytes"
	_ "embed"
	"regexp"
	"strings"
	"text/template"
)

//go:embed page.md.tmpl
var markdownText string

var markdownPage = template.Must(template.New("page.md").Funcs(template.FuncMap{
	"text": escapeMarkdown,
	"cell": func(c cell) string {
		if c.Note == "" {
			return escapeMarkdown(c.Text)
		}
		return escapeMarkdown(c.Text) + "<br><sub>" + escapeMarkdown(c.Note) + "</sub>"
	},
}).Parse(markdownText))

func (p *page) markdown() ([]byte, error) {
	var to bytes.Buffer
	err := markdownPage.Execute(&to, p)
	return to.Bytes(), err
}

var (
	blank   = regexp.MustCompile(`[\s\p{Cc}]+`)
	special = regexp.MustCompile("[\\\\`*_{}\\[\\]<>#|~&]")
)

// escapeMarkdown makes of any text one that stands in a line or in a cell of a table, and means itself.
func escapeMarkdown(s string) string {
	return special.ReplaceAllString(oneLine(s), `\$0`)
}

func oneLine(s string) string { return strings.TrimSpace(blank.ReplaceAllString(s, " ")) }
