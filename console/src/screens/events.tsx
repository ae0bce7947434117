import { useEffect, useMemo, useRef, useState } from "preact/hooks";

import type { EventPage, FlowMap, ListedEvent, Topic } from "../base/api";
import { clock, exact, several } from "../base/format";
import { Failure, get } from "../base/http";
import { line } from "../base/inert";
import { useQuery } from "../base/query";
import { param, query as parameters, setParams, to } from "../base/route";
import { useTopology, usesOf } from "../base/topology";
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

/** What the server's filter knows. */
const FIELDS = ["type", "key", "id", "topic", "source", "corr", "group", "status", "version", "since", "by"];
const PAGE = 100;
/** A search goes on by itself for so many answers, and then asks whether to go on. */
const ANSWERS = 20;

/**
 * The newest events of a topic, or of all. While nobody asks for older ones it is live; then it
 * stands still, and says how many have come since.
 */
export function EventList({ topic }: { topic: string | null }) {
  const filter = param("q") ?? "";
  const settled = useSettled(filter);
  return (
    <>
      <div class="filterbar">
        <SearchField name="q" label="Filter events" placeholder="type:order.placed key:ord_81 status:dead since:15m -group:analytics" value={filter} code />
      </div>
      <Found topic={topic} filter={settled} key={settled} />
    </>
  );
}

/** A value when it has not changed for a moment. */
function useSettled(value: string): string {
  const [settled, setSettled] = useState(value);
  useEffect(() => {
    const timer = setTimeout(() => setSettled(value), 250);
    return () => clearTimeout(timer);
  }, [value]);
  return settled;
}

/** Several answers as one. */
function joined(first: EventPage, second: EventPage): EventPage {
  return { ...second, events: [...first.events, ...second.events], scanned: first.scanned + second.scanned };
}

function Found({ topic, filter }: { topic: string | null; filter: string }) {
  const address = (before: number | null) => `/api/events${parameters({ topic, filter, limit: PAGE, before })}`;
  const head = useQuery<EventPage>(address(null), 2);
  const [kept, setKept] = useState<EventPage | null>(null);
  const [scanning, setScanning] = useState(false);
  const [failure, setFailure] = useState<Failure | null>(null);
  const abort = useRef<AbortController | undefined>(undefined);
  const map = useTopology();
  useEffect(() => () => abort.current?.abort(), []);

  const shown = kept ?? head.data ?? null;
  const fresh = kept ? Math.max(0, (head.data?.events[0]?.n ?? 0) - (kept.events[0]?.n ?? 0)) : 0;
  const filtered = filter.trim() !== "";

  const older = async () => {
    if (!shown) return;
    const running = (abort.current = new AbortController());
    setScanning(true);
    setFailure(null);
    let all = shown;
    const before = all.events.length;
    try {
      for (let answer = 0; answer < ANSWERS && all.more && all.events.length < before + PAGE; answer++) {
        all = joined(all, await get<EventPage>(address(all.next), running.signal));
        setKept(all);
      }
    } catch (error) {
      if (error instanceof Failure) setFailure(error);
    } finally {
      setScanning(false);
    }
  };

  if (shown === null) {
    if (head.error?.status === 422) {
      return (
        <Panel flush>
          <Blank title="The filter cannot be read" icon="search">
            <p role="alert">{line(head.error.message.replace(/^filter: /, ""))}</p>
            <p>
              Fields are {FIELDS.join(", ")}. Words stand side by side, <code>OR</code> parts alternatives, <code>-</code> turns the next word round.
            </p>
          </Blank>
        </Panel>
      );
    }
    return <Panel flush>{head.error ? <Failed failure={head.error} again={head.again} /> : <Skeleton lines={10} />}</Panel>;
  }
  return (
    <Panel flush>
      {!shown.events.length &&
        (filtered ? (
          <Blank title={shown.more ? "None of the events looked at so far fits" : "No event fits"} icon="search">
            <button type="button" class="button" onClick={() => setParams({ q: null })}>
              Clear the filter
            </button>
          </Blank>
        ) : (
          <NothingHere topic={topic} />
        ))}
      {shown.events.length > 0 && <Rows events={shown.events} map={map} />}
      {failure && <Failed failure={failure} />}
      {shown.total > 0 && (
        <div class="scanbar" role="status">
          <span>
            {filtered ? `${several(shown.events.length, "event fits", "events fit")}; ` : ""}
            {shown.by === "index" && filtered ? "an index was asked" : `looked at ${exact(shown.scanned)} of ${exact(shown.total)}`}
            {shown.back_to !== null && (
              <>
                , back to <Time at={shown.back_to} exact />
              </>
            )}
          </span>
          {scanning ? (
            <button type="button" class="button tiny" onClick={() => abort.current?.abort()}>
              Stop
            </button>
          ) : shown.more ? (
            <button type="button" class="button tiny" onClick={() => void older()}>
              {filtered ? "Continue" : "Show older"}
            </button>
          ) : (
            <span class="faint">That is all that is kept here.</span>
          )}
          {kept !== null && (
            <button type="button" class="button tiny" onClick={() => setKept(null)}>
              {fresh ? `Live again: ${exact(fresh)} new` : "Live again"}
            </button>
          )}
        </div>
      )}
    </Panel>
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
