import { useMemo } from "preact/hooks";

import { count, duration, rate } from "../base/format";
import { type Look, ofFate, ofGroup } from "../base/health";
import { beginning, line } from "../base/inert";
import { GlyphShape } from "../ui/glyph";
import type { Box, Frame, Layout } from "./layout";
import { pathOf } from "./layout";
import { memo } from "./memo";
import { type Edge, type Graph, lookOf, meanOf, type Node, widthOf } from "./model";
import { inTurn } from "./turns";
import type { Walk } from "./walk";
import { Book, EdgeWords, NodeWords } from "./words";

export interface Picturing {
  graph: Graph;
  layout: Layout;
  selected: string | null;
  /** What is not faded; null when everything is in the light. */
  lit: ReadonlySet<string> | null;
  walk: Walk | null;
  /** How many steps of the walk have been played; null for all. */
  played: number | null;
}

// Shapes stand where they are by their own coordinates: the browser paints each transformed element by itself, and a map in which
// nodes were moved to their places took three milliseconds to paint whatever had changed.

/** So many shapes are drawn together. */
const PART = 8;

/** What is drawn in parts, and what is the same for all of them. */
interface Part<W> {
  /** Which nodes or edges of the graph. */
  of: number[];
  words: Book<W>;
  graph: Graph;
  layout: Layout;
  selected: string | null;
  lit: ReadonlySet<string> | null;
  walk: Walk | null;
  /** Edges that have been walked until now; null for all. */
  shown: ReadonlySet<string> | null;
}

/** The map itself; the same picture on the screen and in an exported file. New numbers appear part by part. */
export const Picture = memo(Drawing, 1);

function Drawing({ graph, layout, selected, lit, walk, played }: Picturing) {
  const shown = useMemo(() => (walk && played !== null ? new Set(walk.steps.slice(0, played).map((step) => step.edge)) : null), [walk, played]);
  const edges = useMemo(() => ({ parts: partsOf([...graph.edges.keys()]), words: new Book(EdgeWords) }), [graph.shape]);
  const nodes = useMemo(() => ({ parts: partsOf(inFlow(graph, layout)), words: new Book(NodeWords) }), [graph.shape, layout]);
  const same = { graph, layout, selected, lit, walk, shown };
  return (
    <>
      <g class="frames">
        {layout.frames.map((frame) => (
          <FrameShape key={frame.id} frame={frame} alive={graph.services.find((service) => service.name === frame.service)} faded={lit !== null && !touches(frame, lit, graph)} />
        ))}
      </g>
      <g class="edges">
        {edges.parts.map((of, number) => (
          <Edges key={number} of={of} words={edges.words} {...same} />
        ))}
      </g>
      <g class="nodes">
        {nodes.parts.map((of, number) => (
          <Nodes key={number} of={of} words={nodes.words} {...same} />
        ))}
      </g>
    </>
  );
}

function partsOf<T>(all: T[]): T[][] {
  return Array.from({ length: Math.ceil(all.length / PART) }, (_, number) => all.slice(number * PART, (number + 1) * PART));
}

/** Whether more than numbers has changed: what somebody has asked to see comes at once. */
function asked<W>(a: Part<W>, b: Part<W>): boolean {
  return a.layout !== b.layout || a.selected !== b.selected || a.lit !== b.lit || (a.walk === null) !== (b.walk === null) || a.shown !== b.shown;
}

/** Write what is new on shapes that look as they did. Most answers change nothing else, and Preact would compare all of them. */
function writing<W>(looksAs: (index: number, drawn: Graph, now: Graph) => boolean, write: (index: number, part: Part<W>, written: Graph) => void): (drawn: Part<W>, now: Part<W>) => boolean {
  return (drawn, now) => {
    if (asked(drawn, now) || drawn.of !== now.of || drawn.words !== now.words || drawn.walk !== now.walk) return false;
    for (const index of now.of) {
      if (!looksAs(index, drawn.graph, now.graph)) return false;
      write(index, now, drawn.graph);
    }
    return true;
  };
}

const Edges = inTurn(SomeEdges, asked, writing(edgeLooksAs, writeEdge));
const Nodes = inTurn(SomeNodes, asked, writing(nodeLooksAs, writeNode));

function isBehind(edge: Edge, graph: Graph): boolean {
  return edge.from.startsWith("event:") && graph.late.has(edge.to);
}

function edgeLooksAs(index: number, drawn: Graph, now: Graph): boolean {
  const a = drawn.edges[index];
  const b = now.edges[index];
  return (
    a !== undefined &&
    b !== undefined &&
    lookOf(a.edge, drawn.window) === lookOf(b.edge, now.window) &&
    widthOf(a.edge) === widthOf(b.edge) &&
    a.edge.observed === b.edge.observed &&
    a.edge.failed > 0 === b.edge.failed > 0 &&
    isBehind(a, drawn) === isBehind(b, now)
  );
}

function writeEdge(index: number, { graph, words }: Part<EdgeWords>): EdgeWords {
  const edge = graph.edges[index] as Edge;
  const mine = words.of(edge.id);
  mine.pace.write(edge.edge.observed ? rate(edge.edge.rate) : "");
  mine.label.write(labelOf(edge, graph.window));
  return mine;
}

function SomeEdges(part: Part<EdgeWords>) {
  const { of, graph, layout, selected, lit, walk, shown } = part;
  return (
    <>
      {of.map((index) => {
        const edge = graph.edges[index] as Edge;
        const points = layout.edges[edge.id];
        if (!points?.length) return null;
        const numbers = walk?.numbers.get(edge.id);
        const open = walk?.open.has(edge.id) ?? false;
        const onPath = numbers !== undefined || open;
        const faded = walk ? !onPath || (shown !== null && !shown.has(edge.id)) : lit !== null && !(lit.has(edge.from) && lit.has(edge.to));
        return (
          <EdgeShape
            key={edge.id}
            id={edge.id}
            d={pathOf(points)}
            middle={between(points)}
            look={lookOf(edge.edge, graph.window)}
            width={widthOf(edge.edge)}
            words={writeEdge(index, part)}
            observed={edge.edge.observed}
            behind={isBehind(edge, graph)}
            failed={edge.edge.failed > 0}
            selected={selected === edge.id}
            faded={faded}
            steps={numbers ? (shown === null || shown.has(edge.id) ? numbers.join(", ") : "") : ""}
            open={open && numbers === undefined}
            red={walk?.steps.some((step) => step.edge === edge.id && step.failed) ?? false}
          />
        );
      })}
    </>
  );
}

function nodeLooksAs(index: number, drawn: Graph, now: Graph): boolean {
  const a = drawn.nodes[index];
  const b = now.nodes[index];
  return (
    a !== undefined &&
    b !== undefined &&
    drawn.past === now.past &&
    a.label === b.label &&
    a.alive === b.alive &&
    a.node.version === b.node.version &&
    a.node.health?.state === b.node.health?.state &&
    a.node.health?.severity === b.node.health?.severity &&
    a.node.dead === b.node.dead
  );
}

function writeNode(index: number, { graph, words, walk }: Part<NodeWords>, written?: Graph): NodeWords {
  const node = graph.nodes[index] as Node;
  const mine = words.of(node.id);
  const before = written?.nodes[index];
  if (before && before.node.lag === node.node.lag && before.node.age === node.node.age && written.rates.get(node.id) === graph.rates.get(node.id)) return mine;
  const pace = node.kind === "event" || !graph.rates.has(node.id) ? "" : rate(graph.rates.get(node.id));
  const waiting = waitingOf(node);
  mine.pace.write(pace);
  mine.waiting.write(waiting);
  mine.name.write(nameOf(node, writtenOn(node, wordOf(node, endOf(node, walk), graph), pace, waiting)));
  return mine;
}

function SomeNodes(part: Part<NodeWords>) {
  const { of, graph, layout, selected, lit, walk } = part;
  return (
    <>
      {of.map((index) => {
        const node = graph.nodes[index] as Node;
        const box = layout.nodes[node.id];
        if (!box) return null;
        const end = endOf(node, walk);
        return (
          <NodeShape
            key={node.id}
            id={node.id}
            kind={node.kind}
            short={shortOf(node)}
            alive={node.alive}
            box={box}
            version={node.node.version ?? null}
            look={lookOfNode(node, end)}
            word={wordOf(node, end, graph)}
            many={manyOf(node)}
            words={writeNode(index, part)}
            selected={selected === node.id}
            faded={walk ? !walk.nodes.has(node.id) : lit !== null && !lit.has(node.id)}
          />
        );
      })}
    </>
  );
}

type End = ReturnType<Walk["ends"]["get"]>;

/** How a walk has ended at a node, where that is worth a word. */
function endOf(node: Node, walk: Walk | null): End {
  const end = walk?.ends.get(node.id);
  return end === "handled" ? undefined : end;
}

function lookOfNode(node: Node, end: End): Look | null {
  return end ? ofFate(end) : node.node.health ? ofGroup(node.node.health.state) : null;
}

function wordOf(node: Node, end: End, graph: Graph): string {
  return lookOfNode(node, end)?.word ?? (graph.past ? "" : "No position yet");
}

function shortOf(node: Node): string {
  return beginning(line(node.label), 27);
}

function manyOf({ node: { dead } }: Node): string {
  return dead ? (dead > 999 ? "1k+" : String(dead)) : "";
}

/** All that is written on a node; what a view from farther away leaves out comes last. */
function writtenOn(node: Node, word: string, pace: string, waiting: string): string {
  switch (node.kind) {
    case "event":
      return `${shortOf(node)} ${typeof node.node.version === "number" ? `v${node.node.version}` : ""} ${manyOf(node)}`;
    case "producer":
      return `publishes ${pace}`;
    default:
      return `${shortOf(node)} ${word} ${manyOf(node)} ${pace} ${waiting}`;
  }
}

/** Nodes, by their numbers, in the order of flow, which is the order in which the keyboard goes through them. */
function inFlow(graph: Graph, layout: Layout): number[] {
  const place = new Map(layout.layers.flat().map((id, index) => [id, index]));
  const placeOf = (index: number) => place.get(graph.nodes[index]?.id ?? "") ?? 0;
  return [...graph.nodes.keys()].sort((a, b) => placeOf(a) - placeOf(b));
}

function touches(frame: Frame, lit: ReadonlySet<string>, graph: Graph): boolean {
  return graph.nodes.some((node) => node.service === frame.service && lit.has(node.id));
}

function between(points: { x: number; y: number }[]): { x: number; y: number } {
  // The middle of the piece in the middle.
  const piece = Math.floor((points.length - 1) / 3 / 2) * 3;
  const [p, a, b, q] = [points[piece], points[piece + 1], points[piece + 2], points[piece + 3]];
  if (!p || !a || !b || !q) return points[0] ?? { x: 0, y: 0 };
  return { x: (p.x + 3 * a.x + 3 * b.x + q.x) / 8, y: (p.y + 3 * a.y + 3 * b.y + q.y) / 8 };
}

/** All of an edge in a line, for whom points at it. */
function labelOf(edge: Edge, window: number): string {
  if (!edge.edge.observed) return "";
  if (edge.edge.p95 !== null) return `${rate(edge.edge.rate)} · p95 ${duration(edge.edge.p95)}`;
  const mean = meanOf(edge.edge, window);
  const took = mean && mean.waited + mean.worked > 0 ? ` · ${duration(mean.waited + mean.worked)}` : "";
  return rate(edge.edge.rate) + took;
}

/** How much waits and for how long, where that is worth a word. */
function waitingOf({ node }: Node): string {
  if (!node.lag || !node.health || node.health.severity < 1) return "";
  return node.age === null || node.age === undefined ? count(node.lag) : `${count(node.lag)} · ${duration(node.age)}`;
}

const KINDS = { event: "event", handler: "handler", producer: "what a service publishes", service: "service" };

/** What a screen reader says of a node: first what is written on it, which is what people call it, and then all that the picture shows. */
function nameOf(node: Node, written: string): string {
  const { health, lag, age, dead } = node.node;
  const parts = [written.replace(/\s+/g, " ").trim(), KINDS[node.kind]];
  if (node.service && node.kind !== "service") parts.push(`of ${line(node.service)}`);
  if (health) parts.push(ofGroup(health.state).word.toLowerCase());
  if (lag) parts.push(`${count(lag)} events wait${age === null || age === undefined ? "" : `, the oldest for ${duration(age)}`}`);
  if (dead) parts.push(`${count(dead)} dead letters`);
  if (!node.alive && node.kind !== "event") parts.push("no process of its service is alive");
  return parts.join(", ");
}

const FrameShape = memo(({ frame, alive, faded }: { frame: Frame; alive: { alive: boolean; instances: number } | undefined; faded: boolean }) => {
  const gone = alive !== undefined && !alive.alive;
  return (
    <g class={`frame ${gone ? "gone" : ""} ${faded ? "faded" : ""}`}>
      <rect x={frame.x} y={frame.y} width={frame.width} height={frame.height} rx="10" />
      <text class="title" x={frame.x + 12} y={frame.y + 18}>
        {beginning(line(frame.service), Math.max(6, Math.floor((frame.width - 24) / 7)))}
        {gone ? <tspan class="aside"> none alive</tspan> : alive && alive.instances > 1 ? <tspan class="aside"> ×{alive.instances}</tspan> : ""}
      </text>
    </g>
  );
});

interface EdgeProps {
  id: string;
  d: string;
  middle: { x: number; y: number };
  look: string;
  width: number;
  words: EdgeWords;
  observed: boolean;
  behind: boolean;
  failed: boolean;
  selected: boolean;
  faded: boolean;
  steps: string;
  open: boolean;
  red: boolean;
}

const EdgeShape = memo(({ id, d, middle, look, width, words, observed, behind: late, failed, selected, faded, steps, open, red }: EdgeProps) => (
  <g class={`edge ${look} ${selected ? "selected" : ""} ${faded ? "faded" : ""} ${steps ? "on-path" : ""} ${open ? "open" : ""} ${red ? "red" : ""}`} data-edge={id}>
    <path class="wide" d={d} />
    <path class="wire" d={d} stroke-width={steps ? Math.max(2, width) : width} marker-end={`url(#${red ? "arrow-error" : steps ? "arrow-accent" : look === "failing" ? "arrow-error" : look === "undeclared" ? "arrow-warn" : "arrow"})`} />
    {steps ? (
      <g class="step">
        <rect x={middle.x - (steps.length * 3.6 + 7)} y={middle.y - 10} width={steps.length * 7.2 + 14} height="20" rx="10" />
        <text x={middle.x} y={middle.y + 4} text-anchor="middle">
          {steps}
        </text>
      </g>
    ) : (
      <>
        {(failed || late) && (
          <g class={failed ? "mark failed" : "mark late"}>
            <circle cx={middle.x} cy={middle.y} r="9" class="back" />
            <GlyphShape name={failed ? "cross" : "up"} x={middle.x - 6} y={middle.y - 6} />
          </g>
        )}
        {observed && (
          <>
            <text class="rate" x={middle.x} y={middle.y - (failed || late ? 13 : 5)} text-anchor="middle" ref={words.pace.ref} />
            <text class="rate all" x={middle.x} y={middle.y - (failed || late ? 13 : 5)} text-anchor="middle" ref={words.label.ref} />
          </>
        )}
      </>
    )}
  </g>
), 2);

interface NodeProps {
  id: string;
  kind: Node["kind"];
  short: string;
  alive: boolean;
  box: Box;
  version: number | null;
  look: Look | null;
  word: string;
  many: string;
  words: NodeWords;
  selected: boolean;
  faded: boolean;
}

const NodeShape = memo(({ id, kind, short, alive, box, version, look, word, many, words, selected, faded }: NodeProps) => {
  const [w, h] = [box.width, box.height];
  const [x, y] = [box.x - w / 2, box.y - h / 2];
  const badgeAt = x + w - 8 - (many.length - 1) * 4;
  const badge = many && (
    <>
      <g class="dead">
        <path d={`M${badgeAt + 4.7},${y - 9} h${10 + (many.length - 1) * 4} l4.7,4.7 v10 l-4.7,4.7 h${-10 - (many.length - 1) * 4} l-4.7,-4.7 v-10z`} />
        <text x={badgeAt + 9.7 + (many.length - 1) * 2} y={y + 5} text-anchor="middle">
          {many}
        </text>
      </g>{" "}
    </>
  );
  return (
    <g
      class={`node ${kind} ${look ? `tone-${look.tone}` : ""} ${selected ? "selected" : ""} ${faded ? "faded" : ""} ${alive ? "" : "gone"}`}
      data-node={id}
      tabindex={0}
      role="button"
      ref={words.name.ref}
      aria-pressed={selected ? "true" : "false"}
    >
      <path class="face" d={outline(kind, x, y, w, h)} />
      {kind === "handler" || kind === "service" ? (
        <>
          {look && (
            <>
              <path class="stripe" d={`M${x},${y + 6} a6,6 0 0 1 4,-5.6 v${h - 0.8} a6,6 0 0 1 -4,-5.6z`} />
              <g class="glyph">
                <GlyphShape name={look.glyph} x={x + 14} y={y + 11} />
              </g>
            </>
          )}
          <text class="label" x={x + (look ? 32 : 14)} y={y + 21}>
            {short}
          </text>{" "}
          <text class="word" x={x + 14} y={y + 42}>
            {word}
          </text>{" "}
          {badge}
          <text class="numbers" x={x + w - 12} y={y + 21} text-anchor="end" ref={words.pace.ref} />{" "}
          <text class="numbers" x={x + w - 12} y={y + 42} text-anchor="end" ref={words.waiting.ref} />
        </>
      ) : kind === "producer" ? (
        <>
          <path class="hint" d={`M${x + 11},${y + 11.5} l8,5.5 l-8,5.5z`} />
          <text class="aside" x={x + 26} y={y + 21.5}>
            publishes
          </text>{" "}
          <text class="numbers" x={x + w - 12} y={y + 21.5} text-anchor="end" ref={words.pace.ref} />
        </>
      ) : (
        <text class="label" x={box.x} y={y + 22} text-anchor="middle">
          {short}
          {version !== null && <tspan class="aside"> v{version}</tspan>}
        </text>
      )}
      {kind !== "handler" && kind !== "service" && badge}
    </g>
  );
}, 2);

function outline(kind: Node["kind"], x: number, y: number, w: number, h: number): string {
  switch (kind) {
    case "event": {
      const [tip, slope] = [h / 2, h * 0.35];
      return `M${x + slope},${y} h${w - 2 * slope} l${slope},${tip} l${-slope},${tip} h${2 * slope - w} l${-slope},${-tip}z`;
    }
    case "producer":
      return `M${x + 3},${y} h${w - h / 2 - 3} a${h / 2},${h / 2} 0 0 1 0,${h} h${3 + h / 2 - w} a3,3 0 0 1 -3,-3 v${6 - h} a3,3 0 0 1 3,-3z`;
    default:
      return `M${x + 6},${y} h${w - 12} a6,6 0 0 1 6,6 v${h - 12} a6,6 0 0 1 -6,6 h${12 - w} a6,6 0 0 1 -6,-6 v${12 - h} a6,6 0 0 1 6,-6z`;
  }
}

/** Arrow heads. */
export function Definitions() {
  return (
    <defs>
      {["arrow", "arrow-warn", "arrow-error", "arrow-accent"].map((id) => (
        <marker key={id} id={id} class={id} viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" markerUnits="userSpaceOnUse" orient="auto-start-reverse">
          <path d="M0,0.5 L7.5,4 L0,7.5z" />
        </marker>
      ))}
    </defs>
  );
}
