import { signal } from "@preact/signals";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";

import type { FlowMap, Trace } from "../base/api";
import { clock, duration, several } from "../base/format";
import { lost } from "../base/http";
import { line } from "../base/inert";
import { useKeys } from "../base/keys";
import { useQuery } from "../base/query";
import { param, query as parameters, setParams, to } from "../base/route";
import { save } from "../base/save";
import { Icon } from "../ui/icon";
import { Segments } from "../ui/parts";
import { Blank, Failed, Skeleton } from "../ui/states";
import { Copy, Foreign } from "../ui/text";
import { json, mermaid, svg } from "./export";
import { Inspector } from "./inspector";
import type { Direction } from "./layout";
import { PastStrip } from "./past";
import { around, type Graph, type Level, TOO_MANY, WIDTHS } from "./model";
import { Stage } from "./stage";
import { MapTable } from "./table";
import { useGraph, useLayout } from "./use_layout";
import { rests, type Walk, walkOf } from "./walk";

const narrow = signal(false);
if (typeof matchMedia === "function") {
  const media = matchMedia("(max-width: 760px)");
  narrow.value = media.matches;
  media.addEventListener("change", () => (narrow.value = media.matches));
}

const WINDOWS = [
  ["60", "1 m"],
  ["300", "5 m"],
  ["900", "15 m"],
  ["3600", "1 h"],
] as const;

/** What really flows, how fast, how healthy; and, for one correlation, what it caused. */
export function MapScreen() {
  const window_ = WINDOWS.some(([value]) => value === param("window")) ? (param("window") as string) : "60";
  const correlation = param("corr");
  const at = Number(param("at")) || null;
  const found = useQuery<FlowMap>(`/api/map${parameters({ window: window_, at })}`, at === null ? 2 : 0);
  const trace = useQuery<Trace>(correlation === null ? null : `/api/trace/${encodeURIComponent(correlation)}`, 2);
  // On a phone the list comes first; the map is a tap away.
  const view = param("view") ?? (narrow.value && correlation === null && param("node") === null ? "table" : "map");
  // While another moment is fetched, the one before it stays.
  const last = useRef<FlowMap | undefined>(undefined);
  const map = found.data ?? last.current;
  last.current = map;
  const past = at !== null || param("past") !== null;
  const level: Level = param("level") === "services" || (param("level") === null && (map?.nodes.length ?? 0) > TOO_MANY) ? "services" : "handlers";
  const direction: Direction = (param("dir") ?? (narrow.value ? "TB" : "LR")) === "TB" ? "TB" : "LR";
  const graph = useGraph(map, level, at !== null);
  const { layout, error } = useLayout(graph, direction);
  const selected = param("node");
  const focus = param("focus");
  const wanted = (param("q") ?? "").trim().toLowerCase();
  const lit = useMemo(() => {
    if (!graph) return null;
    if (focus !== null) return around(graph, focus, Number(param("hops") ?? 2));
    if (wanted) return new Set(graph.nodes.filter((node) => `${node.label} ${node.service ?? ""}`.toLowerCase().includes(wanted)).map((node) => node.id));
    return null;
  }, [graph?.shape, focus, wanted, param("hops")]);
  const walk = useMemo(() => (trace.data && map ? walkOf(trace.data, map, level) : null), [trace.data, map, level]);
  const player = usePlayer(walk);
  const select = (id: string | null) => setParams({ node: id });
  const turn = () => setParams({ dir: direction === "LR" ? "TB" : "LR" });

  return (
    <div class={`map-screen ${lost.value === null ? "" : "stale"}`}>
      <div class="map-bar">
        <h1>Flow map</h1>
        <input
          type="search"
          data-filter
          aria-label="Find on the map"
          placeholder="Find"
          value={param("q") ?? ""}
          autocomplete="off"
          spellcheck={false}
          onInput={(event) => setParams({ q: event.currentTarget.value })}
          onKeyDown={(event) => {
            if (event.key === "Enter" && lit?.size) select([...lit][0] ?? null);
          }}
        />
        <Segments label="Time that rates are taken over" value={window_} options={WINDOWS} onChange={(value) => setParams({ window: value === "60" ? null : value })} />
        <Segments
          label="Level"
          value={level}
          options={[
            ["handlers", "Handlers"],
            ["services", "Services"],
          ]}
          onChange={(value) => setParams({ level: value, node: null, focus: null })}
        />
        <span style={{ flex: 1 }} />
        {focus !== null && (
          <button type="button" class="button" onClick={() => setParams({ focus: null, hops: null })}>
            <Icon name="close" size={14} /> Everything
          </button>
        )}
        <button type="button" class="button" aria-pressed={past ? "true" : "false"} title="Look at how it was" onClick={() => setParams({ past: past ? null : "1", at: null })}>
          <Icon name="undo" /> Past
        </button>
        <button type="button" class="button icon" aria-label={direction === "LR" ? "From top to bottom" : "From left to right"} title="Direction (l)" onClick={turn}>
          <Icon name="turn" />
        </button>
        <button type="button" class="button" aria-pressed={view === "table" ? "true" : "false"} onClick={() => setParams({ view: view === "table" ? "map" : "table" })}>
          <Icon name="table" /> Table
        </button>
        <Export map={map} graph={graph} size={layout} />
      </div>
      {correlation !== null && <WalkBar correlation={correlation} trace={trace.data} missing={trace.error?.status === 404} walk={walk} player={player} />}
      <div class="map-body">
        {view === "table" && graph ? (
          <MapTable graph={graph} onSelect={(id) => setParams({ node: id, view: "map" })} />
        ) : graph && !graph.nodes.length ? (
          <Blank title="Nothing on the map yet" icon="map" command="millstream demo shop">
            Handlers appear here when a service that tells facts starts, and flows when something is published.
          </Blank>
        ) : error ? (
          <Blank title="The map could not be laid out" icon="map">
            <p>{line(error)}</p>
            <p>
              <a href="/map?view=table">The same as a table</a>
            </p>
          </Blank>
        ) : map && graph && layout ? (
          <Stage
            map={map}
            level={level}
            graph={graph}
            layout={layout}
            selected={selected}
            lit={lit}
            walk={correlation === null ? null : walk}
            played={player.played}
            correlation={trace.data?.correlation ?? null}
            still={at !== null}
            onSelect={select}
            onFocus={(id) => setParams({ focus: id })}
            onTurn={turn}
          />
        ) : found.error ? (
          <Failed failure={found.error} again={found.again} />
        ) : (
          <Skeleton lines={9} />
        )}
        {map && graph && selected !== null && view === "map" && (
          <Inspector map={map} graph={graph} selected={selected} onClose={() => select(null)} onFocus={(id) => setParams({ focus: id })} key={selected} />
        )}
      </div>
      {past && <PastStrip at={at} />}
      {view === "map" && graph && graph.nodes.length > 0 && <Legend graph={graph} />}
    </div>
  );
}

function Legend({ graph }: { graph: Graph }) {
  const observed = graph.edges.some((edge) => edge.edge.observed);
  const undeclared = graph.edges.filter((edge) => edge.edge.observed && !edge.edge.declared).length;
  return (
    <footer class="map-legend">
      {!observed && <strong>Nothing has flowed in the last {duration(graph.window)}.</strong>}
      {undeclared > 0 && (
        <strong class="tone-warn" style={{ color: "var(--tone)" }}>
          {several(undeclared, "undeclared flow")}
        </strong>
      )}
      <span>
        <i class="line" /> flowing
      </span>
      <span>
        <i class="line silent" /> declared, silent
      </span>
      <span>
        <i class="line undeclared" /> undeclared
      </span>
      <span>
        <i class="dot" /> an event
      </span>
      <span>
        <i class="diamond" /> a failed attempt
      </span>
      <span>
        <i class="ring" /> a duplicate
      </span>
      <span class="wide">
        Width: {[...WIDTHS].reverse().map(([least]) => (least === 0 ? "<1/s" : `${least}/s`)).join(", ")}
      </span>
    </footer>
  );
}

function Export({ map, graph, size }: { map: FlowMap | undefined; graph: Graph | undefined; size: { width: number; height: number } | undefined }) {
  const menu = useRef<HTMLDetailsElement>(null);
  useEffect(() => {
    const close = (event: Event) => {
      if (!menu.current?.contains(event.target as Node)) menu.current?.removeAttribute("open");
    };
    document.addEventListener("click", close);
    return () => document.removeEventListener("click", close);
  }, []);
  if (!map || !graph) return null;
  const done = () => menu.current?.removeAttribute("open");
  const drawing = () => document.querySelector<SVGSVGElement>(".stage svg.drawing");
  return (
    <details class="menu" ref={menu}>
      <summary class="button">
        <Icon name="export" /> Export
      </summary>
      <div class="menu-list">
        <button
          type="button"
          class="button plain"
          onClick={() => {
            const drawn = drawing();
            if (drawn && size) save("flow-map.svg", svg(drawn, size.width, size.height), "image/svg+xml");
            done();
          }}
        >
          SVG picture
        </button>
        <button
          type="button"
          class="button plain"
          onClick={() => {
            save("flow-map.mmd", mermaid(graph), "text/plain");
            done();
          }}
        >
          Mermaid
        </button>
        <button
          type="button"
          class="button plain"
          onClick={() => {
            save("flow-map.json", json(map), "application/json");
            done();
          }}
        >
          JSON
        </button>
        <Copy text={() => location.href} label="Copy a link to exactly this" words="Copy link" />
      </div>
    </details>
  );
}

interface Player {
  played: number | null;
  playing: boolean;
  speed: number;
  play: () => void;
  stop: () => void;
  step: () => void;
  setSpeed: (speed: number) => void;
}

/** Goes through the steps of a walk, in time that is in proportion to what it really took. */
function usePlayer(walk: Walk | null): Player {
  const [played, setPlayed] = useState<number | null>(null);
  const [playing, setPlaying] = useState(false);
  const [speed, setSpeed] = useState(1);
  const steps = walk?.steps.length ?? 0;
  const resting = useMemo(() => (walk ? rests(walk, speed) : []), [steps, speed]);
  useEffect(() => {
    if (!playing) return undefined;
    const next = (played ?? 0) + 1;
    if (next > steps) {
      setPlaying(false);
      setPlayed(null);
      return undefined;
    }
    const timer = setTimeout(() => setPlayed(next), resting[next - 1] ?? 200);
    return () => clearTimeout(timer);
  }, [playing, played, steps, resting]);
  return {
    played,
    playing,
    speed,
    play: () => {
      setPlayed(0);
      setPlaying(true);
    },
    stop: () => {
      setPlaying(false);
      setPlayed(null);
    },
    step: () => {
      setPlaying(false);
      setPlayed(((played ?? 0) % Math.max(1, steps)) + 1);
    },
    setSpeed,
  };
}

function WalkBar({ correlation, trace, missing, walk, player }: { correlation: string; trace: Trace | undefined; missing: boolean; walk: Walk | null; player: Player }) {
  useKeys({
    " ": (event) => {
      if (document.activeElement?.closest("button, a, summary")) return;
      event.preventDefault();
      if (player.playing) player.stop();
      else player.play();
    },
  });
  const step = walk && player.played ? walk.steps[player.played - 1] : undefined;
  return (
    <div class="walk-bar" role="region" aria-label="The path of one correlation">
      <div class="row">
        <span class="small faint">Path of</span> <Foreign text={correlation} mono most={32} />
        <span style={{ flex: 1 }}>{missing ? "Nothing is known by this id yet." : trace ? line(trace.sentence) : ""}</span>
        {walk && walk.steps.length > 0 && (
          <>
            <button type="button" class="button" onClick={player.playing ? player.stop : player.play}>
              <Icon name={player.playing ? "pause" : "play"} size={14} /> {player.playing ? "Stop" : "Play"}
            </button>
            <button type="button" class="button" onClick={player.step}>
              Step
            </button>
            <Segments
              label="Speed"
              value={String(player.speed)}
              options={[
                ["1", "×1"],
                ["10", "×10"],
              ]}
              onChange={(value) => player.setSpeed(Number(value))}
            />
          </>
        )}
        <a class="button" href={to("trace", correlation)}>
          Open trace
        </a>
        <a class="button plain icon" aria-label="Close the path" href={`/map${parameters({ window: param("window") })}`}>
          <Icon name="close" />
        </a>
      </div>
      {walk && <Strip walk={walk} played={player.played} />}
      {step && (
        <p class="small" aria-live="polite">
          Step {player.played} of {walk?.steps.length}, {clock(step.at)}: {line(step.words)}
        </p>
      )}
    </div>
  );
}

/** The walk as marks on one line of time. */
function Strip({ walk, played }: { walk: Walk; played: number | null }) {
  const whole = Math.max(walk.end - walk.start, 1e-6);
  return (
    <div class="strip" role="img" aria-label={`${several(walk.steps.length, "step")} in ${duration(walk.end - walk.start)}`}>
      {walk.steps.map((step, index) => (
        <i
          key={index}
          class={`${step.failed ? "failed" : step.duplicate ? "duplicate" : ""} ${played !== null && index >= played ? "later" : ""}`}
          style={{ left: `${((step.at - walk.start) / whole) * 100}%` }}
          title={`${index + 1}. ${line(step.words)}, after ${duration(step.at - walk.start)}`}
        />
      ))}
      <span class="end small faint">{duration(walk.end - walk.start)}</span>
    </div>
  );
}

