import { useMemo } from "preact/hooks";

import type { Operation, Overview } from "../base/api";
import { clock, duration } from "../base/format";
import { line } from "../base/inert";
import { useQuery } from "../base/query";
import { setParams } from "../base/route";
import { now } from "../base/time";

/** As far back as the strip goes, in seconds: what its histogram is made of. */
const SPAN = 900;

/** How the last quarter of an hour was, and a slider to look at any of its moments. */
export function PastStrip({ at }: { at: number | null }) {
  const found = useQuery<Overview>("/api/overview", 5);
  const end = found.at ?? now.value;
  const start = end - SPAN;
  const chosen = at === null ? end : Math.min(end, Math.max(start, at));
  const bars = useMemo(() => {
    const sums = new Map<number, { all: number; failed: number; step: number }>();
    for (const one of found.data?.rates ?? []) {
      const sum = sums.get(one.at) ?? { all: 0, failed: 0, step: one.step };
      if (one.kind === "published") sum.all += one.count;
      if (one.kind === "retry" || one.kind === "parked") sum.failed += one.count;
      sums.set(one.at, sum);
    }
    return [...sums].map(([time, sum]) => ({ time, ...sum }));
  }, [found.data]);
  const most = Math.max(1, ...bars.map((bar) => bar.all));
  const place = (time: number) => ((time - start) / SPAN) * 1000;
  const choose = (value: number) => setParams({ at: end - value < 3 ? null : String(Math.round(value)) });
  return (
    <div class="past-strip" role="group" aria-label="The last quarter of an hour">
      <div class="past-lane">
        <svg viewBox="0 0 1000 32" preserveAspectRatio="none" aria-hidden="true">
          {bars.map((bar) => (
            <rect key={bar.time} class="all" x={place(bar.time)} width={(bar.step / SPAN) * 1000 - 0.5} y={32 - (bar.all / most) * 30} height={(bar.all / most) * 30} />
          ))}
          {bars
            .filter((bar) => bar.failed)
            .map((bar) => (
              <rect key={bar.time} class="failed" x={place(bar.time)} width={(bar.step / SPAN) * 1000 - 0.5} y={28} height={4} />
            ))}
          {(found.data?.operations ?? []).filter((one) => one.at > start).map((one) => (
            <Flag key={one.id} operation={one} at={place(one.at)} />
          ))}
        </svg>
        <input
          type="range"
          min={Math.floor(start)}
          max={Math.floor(end)}
          step={1}
          value={Math.floor(chosen)}
          aria-label="The moment that the map shows"
          aria-valuetext={at === null ? "now" : `${clock(at)}, ${duration(end - at)} ago`}
          onInput={(event) => choose(Number(event.currentTarget.value))}
        />
      </div>
      <span class="nowrap small">{at === null ? "live" : `as of ${clock(at).slice(0, 8)} (−${duration(Math.max(0, now.value - at))})`}</span>
      <button type="button" class="button tiny" disabled={at === null} onClick={() => setParams({ at: null })}>
        Live
      </button>
    </div>
  );
}

function Flag({ operation, at }: { operation: Operation; at: number }) {
  return (
    <g class="flag">
      <title>
        {operation.kind} {line(operation.group)}
      </title>
      <rect x={at - 1} y={0} width={2} height={32} />
    </g>
  );
}
