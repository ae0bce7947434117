import { useEffect, useRef, useState } from "preact/hooks";

import type { Dot, FlowMap } from "../base/api";
import { count } from "../base/format";
import { line, middle } from "../base/inert";
import { useKeys } from "../base/keys";
import { go, to } from "../base/route";
import { Icon } from "../ui/icon";
import { DotLayer, type Pace } from "./dot_layer";
import { Dots, TOO_FAST } from "./dots";
import type { Layout, Point } from "./layout";
import type { Graph, Level } from "./model";
import { Definitions, Picture } from "./picture";
import type { Walk } from "./walk";
import { control, detailOf, fit, toMap, type View, zoom } from "./viewport";

export interface StageProps {
  map: FlowMap;
  level: Level;
  graph: Graph;
  layout: Layout;
  selected: string | null;
  lit: ReadonlySet<string> | null;
  walk: Walk | null;
  played: number | null;
  correlation: string | null;
  /** What happens now is not what the map shows. */
  still: boolean;
  onSelect: (id: string | null) => void;
  onFocus: (id: string | null) => void;
  onTurn: () => void;
}

/** The map in its place: moved and scaled, with the dots above it. */
export function Stage(props: StageProps) {
  const { graph, layout, selected, onSelect, onFocus } = props;
  const place = useRef<HTMLDivElement>(null);
  const drawn = useRef<SVGSVGElement>(null);
  const view = useRef<View>({ x: 0, y: 0, scale: 1 });
  const moved = useRef(false);
  const [detail, setDetail] = useState("near");
  const [hovered, setHovered] = useState<{ dot: Dot; at: Point } | null>(null);
  const [note, setNote] = useState("");
  const latest = useRef(props);
  latest.current = props;
  const dots = useRef(new Dots());
  const paint = useRef<() => void>(() => undefined);

  const show = (next: View) => {
    view.current = next;
    const group = drawn.current?.querySelector("[data-view]");
    group?.setAttribute("transform", `translate(${next.x.toFixed(2)},${next.y.toFixed(2)}) scale(${next.scale.toFixed(4)})`);
    setDetail(detailOf(next.scale));
    paint.current();
  };
  const whole = () => {
    const element = place.current;
    if (element) show(fit(element.clientWidth, element.clientHeight, layout, 1.1));
    moved.current = false;
  };
  const nearer = (factor: number) => {
    const element = place.current;
    if (element) show(zoom(view.current, factor, { x: element.clientWidth / 2, y: element.clientHeight / 2 }));
    moved.current = true;
  };

  useEffect(() => {
    const element = place.current;
    if (!element) return undefined;
    const stop = control(
      element,
      () => view.current,
      (next) => {
        moved.current = true;
        show(next);
      },
    );
    const observer = new ResizeObserver(() => {
      if (latest.current.selected !== null) reveal(latest.current.selected);
      else if (!moved.current) whole();
      paint.current();
    });
    observer.observe(element);
    return () => {
      stop();
      observer.disconnect();
    };
  }, [layout]);

  useEffect(() => {
    if (moved.current) show(view.current);
    else whole();
  }, [layout]);

  useKeys({
    f: (event) => {
      event.preventDefault();
      whole();
    },
    l: (event) => {
      event.preventDefault();
      props.onTurn();
    },
    "+": (event) => {
      event.preventDefault();
      nearer(1.25);
    },
    "=": (event) => {
      event.preventDefault();
      nearer(1.25);
    },
    "-": (event) => {
      event.preventDefault();
      nearer(0.8);
    },
    ...Object.fromEntries(
      (["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"] as const).map((key) => [
        key,
        (event: KeyboardEvent) => {
          const from = document.activeElement?.closest<SVGElement>("[data-node]")?.dataset["node"];
          const target = from === undefined ? undefined : neighbour(from, key, graph, layout);
          if (target === undefined) return;
          event.preventDefault();
          focusNode(target);
        },
      ]),
    ),
    Enter: (event) => {
      const id = document.activeElement?.closest<SVGElement>("[data-node]")?.dataset["node"];
      if (id === undefined) return;
      event.preventDefault();
      if (selected === id) onFocus(id);
      else onSelect(id);
    },
    Escape: (event) => {
      if (selected === null && latest.current.lit === null) return;
      event.preventDefault();
      onFocus(null);
      onSelect(null);
    },
  });

  const focusNode = (id: string) => {
    drawn.current?.querySelector<SVGElement>(`[data-node="${CSS.escape(id)}"]`)?.focus();
  };
  /** A node that gets the focus is brought into sight. */
  const seen = (event: FocusEvent) => {
    const id = (event.target as Element).closest<SVGElement>("[data-node]")?.dataset["node"];
    if (id !== undefined) reveal(id);
  };
  const reveal = (id: string) => {
    const box = latest.current.layout.nodes[id];
    const element = place.current;
    if (!box || !element) return;
    const { scale } = view.current;
    const [x, y] = [box.x * scale + view.current.x, box.y * scale + view.current.y];
    const [dx, dy] = [outside(x, (box.width / 2) * scale + 24, element.clientWidth), outside(y, (box.height / 2) * scale + 24, element.clientHeight)];
    if (dx || dy) {
      moved.current = true;
      show({ scale, x: view.current.x + dx, y: view.current.y + dy });
    }
    // The browser scrolls what is focused into sight by itself, which moves the drawing in its frame.
    element.scrollTo(0, 0);
  };

  const pointed = (event: MouseEvent): Point => {
    const box = (place.current as HTMLElement).getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  };
  const dotAt = (event: MouseEvent) => dots.current.near(toMap(view.current, pointed(event)), 10 / view.current.scale);

  return (
    <div
      class={`stage detail-${detail} ${props.walk ? "walking" : ""}`}
      ref={place}
      onFocusIn={seen}
      onPointerMove={(event) => {
        const dot = event.buttons ? undefined : dotAt(event);
        if (dot || hovered) setHovered(dot ? { dot, at: pointed(event) } : null);
      }}
      onPointerLeave={() => setHovered(null)}
      onClick={(event) => {
        const dot = dotAt(event);
        if (dot) {
          go(to("trace", dot.correlation));
          return;
        }
        const target = event.target as Element;
        const node = target.closest<SVGElement>("[data-node]")?.dataset["node"];
        const edge = target.closest<SVGElement>("[data-edge]")?.dataset["edge"];
        if (node !== undefined || edge !== undefined) onSelect(node ?? edge ?? null);
        else if (target.closest("svg")?.classList.contains("drawing")) onSelect(null);
      }}
      onDblClick={(event) => {
        const node = (event.target as Element).closest<SVGElement>("[data-node]")?.dataset["node"];
        if (node !== undefined) onFocus(node);
      }}
    >
      <svg ref={drawn} class="drawing" role="group" aria-label={`Flow map: ${graph.nodes.length} nodes, ${graph.edges.length} edges. Tab goes from node to node in the direction of flow.`}>
        <Definitions />
        <g data-view>
          <Picture graph={graph} layout={layout} selected={selected} lit={props.lit} walk={props.walk} played={props.played} />
        </g>
      </svg>
      <DotLayer map={props.map} level={props.level} layout={layout} dots={dots.current} view={view} paint={paint} correlation={props.correlation} still={props.still} onPace={(pace) => setNote(noteOf(pace))} />
      <div class="pace">{note && <p>{note}</p>}</div>
      {hovered && (
        <div class="dot-tip" style={{ left: `${hovered.at.x}px`, top: `${hovered.at.y}px` }}>
          <strong>{line(hovered.dot.from.slice(hovered.dot.from.indexOf(":") + 1))}</strong> → {line(hovered.dot.to.slice(hovered.dot.to.indexOf(":") + 1))}
          <br />
          <span class="mono">{middle(hovered.dot.key ?? hovered.dot.id, 28)}</span>, {hovered.dot.kind}
        </div>
      )}
      <div class="map-tools" role="group" aria-label="What part is seen">
        <button type="button" class="button icon" aria-label="Nearer" title="Nearer (+)" onClick={() => nearer(1.25)}>
          <Icon name="plus" />
        </button>
        <button type="button" class="button icon" aria-label="Farther" title="Farther (−)" onClick={() => nearer(0.8)}>
          <Icon name="minus" />
        </button>
        <button type="button" class="button icon" aria-label="Fit everything" title="Fit (f)" onClick={whole}>
          <Icon name="fit" />
        </button>
      </div>
    </div>
  );
}

/** What is said of how fast events come; in round numbers, which stay for longer than a second. */
function noteOf({ still, rate, sampled }: Pace): string {
  if (still) return "Edges show rates: your system asks for little motion.";
  if (rate > TOO_FAST) return `About ${count(Number(rate.toPrecision(2)))} events a second are too many for dots: edges show rates.`;
  if (sampled < 0.99 && rate > 0) return `Each dot stands for about ${Math.max(2, Math.round(1 / sampled))} events.`;
  return "";
}

function outside(at: number, room: number, size: number): number {
  if (at < room) return room - at;
  if (at > size - room) return size - room - at;
  return 0;
}

/** Where an arrow key leads: along edges with the flow and against it, across to the neighbour in a layer. */
function neighbour(from: string, key: string, graph: Graph, layout: Layout): string | undefined {
  const first = layout.layers[0]?.[0];
  const sideways = Object.values(layout.nodes).length > 1 && first !== undefined && isLeftToRight(layout);
  const forward = sideways ? "ArrowRight" : "ArrowDown";
  const backward = sideways ? "ArrowLeft" : "ArrowUp";
  const next = sideways ? "ArrowDown" : "ArrowRight";
  const here = layout.nodes[from];
  const nearest = (ids: string[]) =>
    ids
      .map((id) => ({ id, box: layout.nodes[id] }))
      .sort((a, b) => Math.hypot((a.box?.x ?? 0) - (here?.x ?? 0), (a.box?.y ?? 0) - (here?.y ?? 0)) - Math.hypot((b.box?.x ?? 0) - (here?.x ?? 0), (b.box?.y ?? 0) - (here?.y ?? 0)))[0]?.id;
  if (key === forward) return nearest(graph.edges.filter((edge) => edge.from === from).map((edge) => edge.to));
  if (key === backward) return nearest(graph.edges.filter((edge) => edge.to === from).map((edge) => edge.from));
  const layer = layout.layers.find((ids) => ids.includes(from)) ?? [];
  return layer[layer.indexOf(from) + (key === next ? 1 : -1)];
}

function isLeftToRight(layout: Layout): boolean {
  const [first, second] = layout.layers;
  const [a, b] = [layout.nodes[first?.[0] ?? ""], layout.nodes[second?.[0] ?? ""]];
  return !a || !b || b.x - a.x >= b.y - a.y;
}
