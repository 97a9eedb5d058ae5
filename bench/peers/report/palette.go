// Colours and marks, which have to tell contenders apart for every eye, and in print.

package main

import "image/color"

// palette is that of Okabe and Ito (https://jfly.uni-koeln.de/color), in the order in which products get them, and a grey
// for the baselines, which their marks tell apart. The HTML page has lighter ones of the same hues for dark screens.
var palette = []color.NRGBA{
	{0x00, 0x72, 0xB2, 0xFF}, // blue: this project
	{0xD5, 0x5E, 0x00, 0xFF}, // vermilion
	{0x00, 0x9E, 0x73, 0xFF}, // bluish green
	{0xCC, 0x79, 0xA7, 0xFF}, // reddish purple
	{0xE6, 0x9F, 0x00, 0xFF}, // orange
	{0x56, 0xB4, 0xE9, 0xFF}, // sky blue
	{0x70, 0x70, 0x70, 0xFF}, // grey
}

const grey = 6 // in palette

// mark is a shape in a box from -1 to 1, with y downwards as in SVG.
type mark struct {
	Path   string       // for SVG
	points [][2]float64 // for the plots; nil: a circle
}

var marks = []mark{
	{"M1 0A1 1 0 1 1 -1 0A1 1 0 1 1 1 0Z", nil},
	{"M-.85 -.85H.85V.85H-.85Z", [][2]float64{{-.85, -.85}, {.85, -.85}, {.85, .85}, {-.85, .85}}},
	{"M0 -1.1L1.05 .8H-1.05Z", [][2]float64{{0, -1.1}, {1.05, .8}, {-1.05, .8}}},
	{"M0 -1.2L1.2 0L0 1.2L-1.2 0Z", [][2]float64{{0, -1.2}, {1.2, 0}, {0, 1.2}, {-1.2, 0}}},
	{"M0 1.1L1.05 -.8H-1.05Z", [][2]float64{{0, 1.1}, {1.05, -.8}, {-1.05, -.8}}},
	{"M-1.1 0L.8 1.05V-1.05Z", [][2]float64{{-1.1, 0}, {.8, 1.05}, {.8, -1.05}}},
	{"M1.1 0L-.8 1.05V-1.05Z", [][2]float64{{1.1, 0}, {-.8, 1.05}, {-.8, -1.05}}},
	{"M-.4 -1.1H.4V-.4H1.1V.4H.4V1.1H-.4V.4H-1.1V-.4H-.4Z", [][2]float64{{-.4, -1.1}, {.4, -1.1}, {.4, -.4}, {1.1, -.4}, {1.1, .4}, {.4, .4}, {.4, 1.1}, {-.4, 1.1}, {-.4, .4}, {-1.1, .4}, {-1.1, -.4}, {-.4, -.4}}},
	{"M-1.2 -.5H1.2V.5H-1.2Z", [][2]float64{{-1.2, -.5}, {1.2, -.5}, {1.2, .5}, {-1.2, .5}}},
}
