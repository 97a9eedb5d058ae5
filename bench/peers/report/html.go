// The HTML page: one file, with all that it needs inside.

package main

import (
	"bytes"
	_ "embed"
	"html/template"
)

//go:embed page.html.tmpl
var htmlText string

var htmlPage = template.Must(template.New("page.html").Funcs(template.FuncMap{
	"isBars":  func(chart any) bool { _, ok := chart.(*barChart); return ok },
	"isDots":  func(chart any) bool { _, ok := chart.(*dotChart); return ok },
	"isLines": func(chart any) bool { _, ok := chart.(*lineCharts); return ok },
	"marks":   func() []mark { return marks },
}).Parse(htmlText))

func (p *page) html() ([]byte, error) {
	var to bytes.Buffer
	err := htmlPage.Execute(&to, p)
	return to.Bytes(), err
}
