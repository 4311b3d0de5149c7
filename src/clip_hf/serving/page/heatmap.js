// Copyright 2026 The clip_hf team. All rights reserved.
// Licensed under the Apache License, Version 2.0; see LICENSE.
// Draw an answer of /v1/explain over a picture, with a legend, and say in words where it is strongest.

import { make } from "./server.js";

// The one colour scale, from what counts least to what counts most: matplotlib's inferno, as `clip-hf explain` draws it.
// It is even in lightness, and does not need red and green to be told apart.
const COLOURS = [
  [0, 0, 4], [33, 12, 74], [87, 16, 110], [138, 34, 106], [188, 55, 84], [228, 90, 49], [249, 142, 9], [249, 203, 53], [252, 255, 164],
];
const OPACITY = 0.65;
const STRIPES = [[205, 205, 205], [150, 150, 150]]; // what the model's crop leaves out
const STRIPE = 5; // pixels of a map
const LONG_EDGE = 256; // pixels of a map; the browser smooths the rest
const METHODS = { chefer: "gradient-weighted attention", grad_cam: "Grad-CAM", rollout: "attention rollout" };
const SIDES = [["top left", "top", "top right"], ["left", "middle", "right"], ["bottom left", "bottom", "bottom right"]];

function colourOf(value) {
  const place = Math.min(Math.max(value, 0), 1) * (COLOURS.length - 1);
  const low = Math.min(Math.floor(place), COLOURS.length - 2);
  return COLOURS[low].map((part, at) => part + (COLOURS[low + 1][at] - part) * (place - low));
}

/** The value of a grid at a place in fractions of its width and height, between the centres of its cells. */
function valueAt(grid, x, y) {
  const along = (fraction, count) => {
    const place = Math.min(Math.max(fraction * count - 0.5, 0), count - 1);
    const low = Math.floor(place);
    return [low, Math.min(low + 1, count - 1), place - low];
  };
  const [top, bottom, down] = along(y, grid.length);
  const [left, right, across] = along(x, grid[0].length);
  const inRow = (row) => grid[row][left] * (1 - across) + grid[row][right] * across;
  return inRow(top) * (1 - down) + inRow(bottom) * down;
}

/** Where a map is strongest, in words: its largest cell among the ninths of the picture. */
function describePlace(grid, [left, top, right, bottom]) {
  let best = [0, 0];
  grid.forEach((row, y) => row.forEach((value, x) => {
    if (value > grid[best[0]][best[1]]) best = [y, x];
  }));
  const third = (start, end, place, count) =>
    Math.min(Math.max(Math.floor(3 * (start + ((end - start) * (place + 0.5)) / count)), 0), 2);
  return SIDES[third(top, bottom, best[0], grid.length)][third(left, right, best[1], grid[0].length)];
}

/** A canvas with a map of the shape of a picture of this width and height. */
function drawMap(grid, [left, top, right, bottom], width, height) {
  const scale = LONG_EDGE / Math.max(width, height);
  const canvas = make("canvas", { width: Math.max(1, Math.round(scale * width)), height: Math.max(1, Math.round(scale * height)) });
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(canvas.width, canvas.height);
  for (let at = 0, row = 0; row < canvas.height; row += 1) {
    const y = ((row + 0.5) / canvas.height - top) / (bottom - top);
    for (let column = 0; column < canvas.width; column += 1, at += 4) {
      const x = ((column + 0.5) / canvas.width - left) / (right - left);
      const isSeen = x >= 0 && x <= 1 && y >= 0 && y <= 1;
      pixels.data.set([...(isSeen ? colourOf(valueAt(grid, x, y)) : STRIPES[Math.floor((row + column) / STRIPE) % 2]), 255 * OPACITY], at);
    }
  }
  context.putImageData(pixels, 0, 0);
  return canvas;
}

function makeLegend() {
  const bar = make("span", { className: "scale", ariaHidden: "true" });
  bar.style.background = `linear-gradient(to right, ${COLOURS.map((colour) => `rgb(${colour})`).join(", ")})`;
  return make("p", { className: "legend" }, make("span", {}, "least"), bar, make("span", {}, "most"));
}

/** The layer over a picture, and its caption; `preview` is the picture, which may be missing. */
export function showMap(answer, preview) {
  const { data: [{ label, relevance, largest }], seen_box: box, method } = answer;
  const how = METHODS[method] ?? method;
  const place = describePlace(relevance, box);
  const found = largest > 0
    ? `What speaks for “${label}”, by ${how}. Strongest place: ${place}.`
    : `Nothing in the picture speaks for “${label}”, by ${how}.`;
  const isCut = box[0] > 0 || box[1] > 0 || box[2] < 1 || box[3] < 1;
  const limits = `The map shows what moves the score of this label${isCut ? "; the model does not see what is striped" : ""}. `
    + "It does not say that the label is right, nor where the thing ends.";
  const caption = make("div", { className: "caption" }, make("p", {}, found), makeLegend(), make("p", { className: "help" }, limits));
  if (!preview?.naturalWidth) return { canvas: "", caption, found };
  const canvas = drawMap(relevance, box, preview.naturalWidth, preview.naturalHeight);
  canvas.className = "heat";
  canvas.setAttribute("role", "img");
  canvas.ariaLabel = `Heat map of “${label}”, strongest place: ${place}`;
  return { canvas, caption, found };
}
