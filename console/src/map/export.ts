/** The map as a file. */

import type { FlowMap } from "../base/api";
import { line } from "../base/inert";
import type { Graph } from "./model";

const safe = (text: string) => line(text).replace(/["<>#;&\\`[\]{}|]/g, (character) => `#${character.charCodeAt(0)};`);

/** For documents that draw Mermaid. */
export function mermaid(graph: Graph): string {
  const names = new Map(graph.nodes.map((node, index) => [node.id, `n${index}`]));
  const lines = ["flowchart LR"];
  const services = [...new Set(graph.nodes.map((node) => node.service))].sort();
  const shape = (node: Graph["nodes"][number]) => {
    const name = names.get(node.id);
    const label = `"${safe(node.label)}"`;
    return node.kind === "event" ? `${name}{{${label}}}` : node.kind === "producer" ? `${name}([${label}])` : `${name}[${label}]`;
  };
  services.forEach((service, index) => {
    const mine = graph.nodes.filter((node) => node.service === service);
    if (service === null) lines.push(...mine.map((node) => `  ${shape(node)}`));
    else lines.push(`  subgraph s${index}["${safe(service)}"]`, ...mine.map((node) => `    ${shape(node)}`), "  end");
  });
  for (const { from, to, edge } of graph.edges) {
    const arrow = edge.observed && !edge.declared ? "-. undeclared .->" : edge.observed ? "-->" : "-.->";
    lines.push(`  ${names.get(from)} ${arrow} ${names.get(to)}`);
  }
  return `${lines.join("\n")}\n`;
}

export function json(map: FlowMap): string {
  return `${JSON.stringify(map, null, 2)}\n`;
}

/** The drawn map with its colours written into it, so that it looks the same anywhere. */
export function svg(drawn: SVGSVGElement, width: number, height: number): string {
  const copy = drawn.cloneNode(true) as SVGSVGElement;
  const sources = [drawn, ...drawn.querySelectorAll<SVGElement>("*")];
  const copies = [copy, ...copy.querySelectorAll<SVGElement>("*")];
  sources.forEach((source, index) => {
    const style = getComputedStyle(source);
    const target = copies[index] as SVGElement;
    for (const name of ["fill", "stroke", "stroke-width", "stroke-dasharray", "opacity", "font-size", "font-weight", "paint-order", "display"]) {
      const value = style.getPropertyValue(name);
      if (value && value !== "none" && value !== "normal" && value !== "auto") target.style.setProperty(name, value);
      else if (name === "fill" || name === "stroke" || (name === "display" && value === "none")) target.style.setProperty(name, value);
    }
    for (const name of ["tabindex", "role", "aria-pressed", "class"]) target.removeAttribute(name);
  });
  copy.querySelector("[data-view]")?.removeAttribute("transform");
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  copy.setAttribute("viewBox", `0 0 ${Math.ceil(width)} ${Math.ceil(height)}`);
  copy.setAttribute("width", String(Math.ceil(width)));
  copy.setAttribute("height", String(Math.ceil(height)));
  copy.style.setProperty("font-family", getComputedStyle(drawn).fontFamily);
  copy.style.setProperty("background", getComputedStyle(document.documentElement).backgroundColor);
  return new XMLSerializer().serializeToString(copy);
}
