import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { useEffect, useRef, useState } from "preact/hooks";

import { clock } from "../base/format";
import { theme } from "../base/settings";

export interface Series {
  label: string;
  values: (number | null)[];
  /** Index of its colour. */
  colour: number;
  /** A colour of health instead. */
  tone?: "error" | "warn" | "ok";
}

/** The colour of a name, the same wherever it is drawn. */
export function colourOf(name: string): number {
  let sum = 7;
  for (const character of name) sum = (sum * 31 + (character.codePointAt(0) ?? 0)) >>> 0;
  return sum % 6;
}

/** What a custom property stands for at this place, in this theme. */
function colour(element: Element, name: string): string {
  const probe = document.createElement("i");
  probe.style.color = `var(${name})`;
  element.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

const tint = (found: string, percent: number) => `color-mix(in srgb, ${found} ${percent}%, transparent)`;

/** A time series; counts start at zero, gaps stay gaps. Its numbers are there as a table, too. */
export function Chart({
  title,
  at,
  series,
  format,
  height = 160,
  whole = false,
}: {
  title: string;
  at: number[];
  series: Series[];
  format: (value: number | null) => string;
  height?: number;
  /** Whole numbers only. */
  whole?: boolean;
}) {
  const place = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | undefined>(undefined);
  const [asTable, setAsTable] = useState(false);
  const [dark, setDark] = useState(0);
  const shape = series.map((each) => `${each.label} ${each.colour} ${each.tone ?? ""}`).join("|");

  useEffect(() => {
    const scheme = matchMedia("(prefers-color-scheme: dark)");
    const change = () => setDark((n) => n + 1);
    scheme.addEventListener("change", change);
    const stop = theme.subscribe(change);
    return () => {
      scheme.removeEventListener("change", change);
      stop();
    };
  }, []);

  useEffect(() => {
    const element = place.current;
    if (!element || asTable) return undefined;
    const text = colour(element, "--text-3");
    const grid = colour(element, "--line");
    const font = `12px ${getComputedStyle(element).fontFamily}`;
    const axis = { stroke: text, font, grid: { stroke: grid, width: 1 }, ticks: { show: false } };
    const made = new uPlot(
      {
        width: element.clientWidth || 320,
        height,
        legend: { show: false },
        padding: [8, 28, 0, 0],
        cursor: { sync: { key: "millstream" }, drag: { x: false, y: false }, points: { size: 6 } },
        scales: { y: { range: (_, __, most) => [0, most > 0 ? most * 1.15 : 1] } },
        axes: [
          { ...axis, size: 30, space: 90, values: (_, times) => times.map((time, index) => timeOfDay(time, times[index - 1])) },
          {
            ...axis,
            size: 64,
            space: 36,
            ...(whole ? { incrs: WHOLE } : {}),
            values: (_, values) => values.map((value) => format(value)),
          },
        ],
        series: [
          {},
          ...series.map((each) => {
            const stroke = colour(element, each.tone ? `--${each.tone}` : `--chart-${each.colour % 6}`);
            return {
              label: each.label,
              stroke,
              width: 1.5,
              spanGaps: false,
              points: { show: false },
              ...(series.length === 1 ? { fill: tint(stroke, 10) } : {}),
            };
          }),
        ],
      },
      [at, ...series.map((each) => each.values)],
      element,
    );
    plot.current = made;
    const observer = new ResizeObserver(() => {
      if (element.clientWidth) made.setSize({ width: element.clientWidth, height });
    });
    observer.observe(element);
    return () => {
      observer.disconnect();
      made.destroy();
      plot.current = undefined;
    };
    // Data alone is set below, without drawing everything anew.
  }, [shape, height, asTable, dark]);

  useEffect(() => {
    plot.current?.setData([at, ...series.map((each) => each.values)]);
  });

  return (
    <figure class="chart">
      <figcaption>
        <strong>{title}</strong>
        {series.map((each) => (
          <span key={each.label} class="legend" style={{ "--series": `var(${each.tone ? `--${each.tone}` : `--chart-${each.colour % 6}`})` }}>
            {each.label}
          </span>
        ))}
        <button type="button" class="button plain tiny" aria-pressed={asTable ? "true" : "false"} onClick={() => setAsTable(!asTable)}>
          {asTable ? "As chart" : "As table"}
        </button>
      </figcaption>
      {asTable ? <Numbers title={title} at={at} series={series} format={format} /> : <div ref={place} role="img" aria-label={describe(title, series, format)} style={{ height: `${height}px` }} />}
    </figure>
  );
}

const WHOLE = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6, 2e6, 5e6, 1e7, 1e8, 1e9];

/** As much of the time as is needed beside its neighbour. */
function timeOfDay(time: number, before: number | undefined): string {
  const date = new Date(time * 1000);
  const pad = (value: number) => String(value).padStart(2, "0");
  const minutes = `${pad(date.getHours())}:${pad(date.getMinutes())}`;
  return before !== undefined && time - before >= 60 ? minutes : `${minutes}:${pad(date.getSeconds())}`;
}

function describe(title: string, series: Series[], format: (value: number | null) => string): string {
  const last = series.map((each) => `${each.label} ${format(each.values.at(-1) ?? null)}`);
  return `${title}: now ${last.join(", ")}`;
}

function Numbers({ title, at, series, format }: { title: string; at: number[]; series: Series[]; format: (value: number | null) => string }) {
  const first = Math.max(0, at.length - 60);
  return (
    <div class="scroll" style={{ maxHeight: "240px", overflow: "auto" }} tabIndex={0} role="region" aria-label={`${title}, as a table`}>
      <table class="table-dense">
        <thead>
          <tr>
            <th>Time</th>
            {series.map((each) => (
              <th key={each.label} class="num">
                {each.label}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {at.slice(first).map((time, index) => (
            <tr key={time}>
              <td>{clock(time).slice(0, 8)}</td>
              {series.map((each) => (
                <td key={each.label} class="num">
                  {format(each.values[first + index] ?? null)}
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

/** A line as wide as its place, without numbers: they stand beside it. */
export function Spark({ values, colour: index }: { values: (number | null)[]; colour?: number }) {
  const known = values.map((value) => value ?? 0);
  const most = Math.max(...known, 1e-9);
  const step = 100 / Math.max(1, known.length - 1);
  const points = known.map((value, each) => `${(each * step).toFixed(2)},${(29 - (value / most) * 26).toFixed(2)}`);
  const style = index === undefined ? undefined : { "--series": `var(--chart-${index % 6})` };
  return (
    <svg class="spark" viewBox="0 0 100 32" preserveAspectRatio="none" aria-hidden="true" style={style}>
      {points.length > 1 && (
        <>
          <path class="area" d={`M0,32 L${points.join(" L")} L100,32 Z`} />
          <path d={`M${points.join(" L")}`} />
        </>
      )}
    </svg>
  );
}
