import { useEffect, useMemo, useRef, useState } from "preact/hooks";

import type { EventPage, FlowMap, ListedEvent, Topic } from "../base/api";
import { clock, exact, several } from "../base/format";
import { FIELDS, fits, parse } from "../base/filter";
import { Failure, get } from "../base/http";
import { line } from "../base/inert";
import { useQuery } from "../base/query";
import { param, query as parameters, setParams, to } from "../base/route";
import { useTopology, usesOf } from "../base/topology";
import { Glyph } from "../ui/glyph";
import { Cell, Head, Panel, SearchField } from "../ui/parts";
import { Blank, Failed, Skeleton } from "../ui/states";
import { Foreign, Id, Time } from "../ui/text";
import { Fates, fatesOf } from "./fates";

export function EventsScreen() {
  const topics = useQuery<Topic[]>("/api/topics", 15);
  const topic = param("topic");
  return (
    <>
      <Head title="Events" below="The newest first, with what became of each in every group.">
        <select aria-label="Topic" value={topic ?? ""} onChange={(event) => setParams({ topic: event.currentTarget.value })}>
          <option value="">All topics</option>
          {topics.data?.map((one) => (
            <option key={one.name} value={one.name}>
              {line(one.name)}
            </option>
          ))}
          {topic && !topics.data?.some((one) => one.name === topic) && <option value={topic}>{line(topic)}</option>}
        </select>
      </Head>
      <EventList topic={topic} key={topic ?? ""} />
    </>
  );
}

const HEAD = 100;
const PAGE = 500;
/** A scan looks at so many pages before it asks whether to go on. */
const PAGES = 20;
const ENOUGH = 50;

interface Scan {
  events: ListedEvent[];
  more: boolean;
}

/**
 * The newest events of a topic, or of all. While nobody asks for older ones it is live; then it
 * stands still, and says how many have come since.
 */
export function EventList({ topic }: { topic: string | null }) {
  const text = param("q") ?? "";
  const filter = useMemo(() => parse(text), [text]);
  const head = useQuery<EventPage>(`/api/events${parameters({ topic, limit: HEAD })}`, 2);
  const [scan, setScan] = useState<Scan | null>(null);
  const [scanning, setScanning] = useState(false);
  const [failure, setFailure] = useState<Failure | null>(null);
  const abort = useRef<AbortController | undefined>(undefined);
  const map = useTopology();
  useEffect(() => () => abort.current?.abort(), []);

  const shown: Scan | null = scan ?? (head.data ? { events: head.data.events, more: head.data.more } : null);
  const now = Date.now() / 1000;
  const fitting = shown?.events.filter((event) => fits(filter, event, now)) ?? [];
  const newest = head.data?.events[0]?.n ?? 0;
  const fresh = scan ? Math.max(0, newest - (scan.events[0]?.n ?? 0)) : 0;

  const older = async () => {
    if (!shown) return;
    const running = (abort.current = new AbortController());
    setScanning(true);
    setFailure(null);
    let { events, more } = shown;
    const before = fitting.length;
    try {
      for (let page = 0; page < PAGES && more; page++) {
        const last = events.at(-1);
        const limit = filter.either.length ? PAGE : HEAD;
        const found = await get<EventPage>(`/api/events${parameters({ topic, limit, before: last?.n })}`, running.signal);
        events = [...events, ...found.events];
        more = found.more;
        setScan({ events, more });
        if (!filter.either.length || events.filter((event) => fits(filter, event, now)).length >= before + ENOUGH) break;
      }
    } catch (error) {
      if (error instanceof Failure) setFailure(error);
    } finally {
      setScanning(false);
    }
  };

  return (
    <>
      <div class="filterbar">
        <SearchField name="q" label="Filter events" placeholder="type:order.placed key:ord_81 status:dead since:15m -group:analytics" value={text} />
      </div>
      {filter.mistakes.length > 0 && (
        <ul class="problems" role="status">
          {filter.mistakes.map((mistake) => (
            <li key={mistake}>
              <Glyph name="question" /> {mistake}
            </li>
          ))}
        </ul>
      )}
      <Panel flush>
        {shown === null ? head.error ? <Failed failure={head.error} again={head.again} /> : <Skeleton lines={10} /> : null}
        {shown && !shown.events.length && <NothingHere topic={topic} />}
        {shown && shown.events.length > 0 && !fitting.length && (
          <Blank title="None of the events looked at so far fits" icon="search">
            <p>Fields are {FIELDS.join(", ")}.</p>
            <button type="button" class="button" onClick={() => setParams({ q: null })}>
              Clear the filter
            </button>
          </Blank>
        )}
        {fitting.length > 0 && <Rows events={fitting} map={map} />}
        {failure && <Failed failure={failure} />}
        {shown && shown.events.length > 0 && (
          <div class="scanbar" role="status">
            <span>
              Looked at {exact(shown.events.length)}, back to <Time at={shown.events.at(-1)?.time} exact />
              {filter.either.length > 0 && `; ${several(fitting.length, "fits", "fit")}`}
            </span>
            {scanning ? (
              <button type="button" class="button tiny" onClick={() => abort.current?.abort()}>
                Stop
              </button>
            ) : shown.more ? (
              <button type="button" class="button tiny" onClick={() => void older()}>
                {filter.either.length ? "Continue" : "Show older"}
              </button>
            ) : (
              <span class="faint">That is all that is kept here.</span>
            )}
            {scan !== null && (
              <button type="button" class="button tiny" onClick={() => setScan(null)}>
                {fresh ? `Live again: ${exact(fresh)} new` : "Live again"}
              </button>
            )}
          </div>
        )}
      </Panel>
    </>
  );
}

function NothingHere({ topic }: { topic: string | null }) {
  return (
    <Blank title={topic === null ? "No events yet" : "Nothing was told of this topic yet"} icon="events" command="millstream publish order.placed --data '{…}'">
      Events are listed when a service that tells facts publishes or handles them.
    </Blank>
  );
}

/** So many rows are drawn; the rest is a click away. */
const MOST_ROWS = 300;

function Rows({ events, map }: { events: ListedEvent[]; map: FlowMap | undefined }) {
  const [most, setMost] = useState(MOST_ROWS);
  const expected = useMemo(() => {
    const known = new Map<string, string[]>();
    return (type: string) => {
      let found = known.get(type);
      if (!found) known.set(type, (found = usesOf(map, type).groups));
      return found;
    };
  }, [map]);
  return (
    <div class="scroll">
      <table class="cards">
        <caption class="sr">Events, the newest first</caption>
        <thead>
          <tr>
            <th>Time</th>
            <th>Type</th>
            <th>Key</th>
            <th>Groups</th>
            <th>Published by</th>
            <th>Id</th>
          </tr>
        </thead>
        <tbody>
          {events.slice(0, most).map((event) => (
            <Row key={`${event.source} ${event.id}`} event={event} expected={expected(event.type)} />
          ))}
        </tbody>
      </table>
      {events.length > most && (
        <div class="scanbar">
          <button type="button" class="button tiny" onClick={() => setMost(most + MOST_ROWS)}>
            Draw more of {exact(events.length)}
          </button>
        </div>
      )}
    </div>
  );
}

/** Where the screen of an event is. */
export function eventHref(event: { id: string; source: string }): string {
  return to("events", event.id) + parameters({ source: event.source });
}

function Row({ event, expected }: { event: ListedEvent; expected: string[] }) {
  return (
    <tr class="link" data-copy={event.id} data-trace={event.correlation}>
      <td class="nowrap">
        <span title={clock(event.time, true)}>
          <Time at={event.time} exact />
        </span>
      </td>
      <td class="full">
        <a class="row-link" href={eventHref(event)}>
          <Foreign text={event.type} />
        </a>{" "}
        <span class="faint small">v{event.version}</span>
      </td>
      <Cell label="Key">{event.key === null ? <span class="faint">none</span> : <Id id={event.key} most={24} />}</Cell>
      <Cell label="Groups">
        <Fates fates={fatesOf(event, expected)} />
      </Cell>
      <Cell label="Published by">
        <Foreign text={event.by ?? event.source} most={32} />
      </Cell>
      <td data-label="Id">
        <a href={to("trace", event.correlation)} title="The trace of its correlation">
          <Id id={event.id} most={16} />
        </a>
      </td>
    </tr>
  );
}
