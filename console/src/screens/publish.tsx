import { useEffect, useMemo, useRef, useState } from "preact/hooks";

import type { Contract, EventDetail, EventPage, Trace } from "../base/api";
import { kept, textOfBody } from "../base/body";
import { type Draft, draftOf, textOf } from "../base/draft";
import { several } from "../base/format";
import { Failure, get, post } from "../base/http";
import { line, middle } from "../base/inert";
import { announce } from "../base/live";
import { useQuery } from "../base/query";
import { param, query as parameters, setParams, to } from "../base/route";
import { example, problems } from "../base/schema";
import { denied } from "../base/system";
import { Glyph } from "../ui/glyph";
import { Action, Head, Panel, Segments } from "../ui/parts";
import { Blank, Ready } from "../ui/states";
import { Foreign } from "../ui/text";
import { SchemaForm } from "./schema_form";

export function PublishScreen() {
  const found = useQuery<Contract[]>("/api/contracts", 30);
  const topic = param("topic");
  const type = param("type");
  return (
    <>
      <Head title="Publish" below="An event by its contract, as a service would publish it; its source says that it came from the console." />
      <Ready query={found}>
        {(contracts) => {
          if (!contracts.length) {
            return (
              <Panel flush>
                <Blank title="No contract is known yet" icon="contracts">
                  Start a service with the setting <code>facts</code> on: it tells of its contracts.
                </Blank>
              </Panel>
            );
          }
          const offered = topic ? contracts.filter((one) => one.topic === topic) : contracts;
          const chosen = contracts.find((one) => one.name === type) ?? (type === null ? (offered[0] ?? contracts[0]) : undefined);
          return (
            <>
              <div class="row">
                <label for="publish-type">Contract</label>
                <select id="publish-type" value={chosen?.name ?? ""} onChange={(event) => setParams({ type: event.currentTarget.value, copy: null, source: null })}>
                  {!chosen && <option value="">{line(type ?? "")} (not known)</option>}
                  {contracts.map((one) => (
                    <option key={one.name} value={one.name}>
                      {line(one.name)} v{one.version}
                    </option>
                  ))}
                </select>
                {chosen && <span class="dim">{line(chosen.summary)}</span>}
              </div>
              {chosen ? (
                <Form contract={chosen} key={chosen.name} />
              ) : (
                <Panel flush>
                  <Blank title="No running service knows this contract">Choose another one.</Blank>
                </Panel>
              )}
            </>
          );
        }}
      </Ready>
    </>
  );
}

type Mode = "form" | "json";

function Form({ contract }: { contract: Contract }) {
  const [text, setText] = useState(() => textOf(example(contract.schema, contract.schema)));
  const [mode, setMode] = useState<Mode>("form");
  const [key, setKey] = useState("");
  const [number, setNumber] = useState(1);
  const [busy, setBusy] = useState(false);
  const [failure, setFailure] = useState("");
  const [note, setNote] = useState("");
  const [sent, setSent] = useState<string[]>([]);
  const sending = useRef(false);
  const wrong = useMemo(() => problems(text, contract.schema), [text, contract]);
  const draft = useMemo((): Draft | null => {
    try {
      JSON.parse(text);
      return draftOf(text);
    } catch {
      return null;
    }
  }, [text]);
  const copy = param("copy");

  const take = async (path: string) => {
    setNote("");
    try {
      const event = await get<EventDetail>(path);
      const body = event.payload && textOfBody(event.payload);
      if (!body) return setNote("The broker does not have the body of that event any more.");
      if (event.payload && kept(event.payload) < event.payload.size) return setNote("The body of that event is too large to be written on here.");
      setText(textOf(draftOf(body)));
      return setNote(`Copied from ${middle(event.id, 20)}.`);
    } catch (error) {
      return setNote(error instanceof Failure ? error.message : String(error));
    }
  };
  const last = async () => {
    try {
      const page = await get<EventPage>(`/api/events${parameters({ topic: contract.topic, limit: 200 })}`);
      const event = page.events.find((one) => one.type === contract.name);
      if (event) await take(`/api/event/${encodeURIComponent(event.id)}${parameters({ source: event.source })}`);
      else setNote("None was published lately.");
    } catch (error) {
      setNote(error instanceof Failure ? error.message : String(error));
    }
  };
  useEffect(() => {
    if (copy) void take(`/api/event/${encodeURIComponent(copy)}${parameters({ source: param("source") })}`);
  }, [copy]);

  const submit = async () => {
    if (sending.current) return;
    sending.current = true;
    setBusy(true);
    setFailure("");
    try {
      const { ids } = await post<{ ids: string[] }>("/api/publish", { type: contract.name, data: text, count: number, ...(key ? { key } : {}) });
      setSent(ids);
      announce(`Published ${several(ids.length, "event")}`);
    } catch (error) {
      setFailure(error instanceof Failure ? error.message : String(error));
    } finally {
      sending.current = false;
      setBusy(false);
    }
  };

  return (
    <>
      {sent.length > 0 && <Result ids={sent} />}
      <Panel
        title="Data"
        actions={
          <div class="row">
            <Segments
              label="How it is written"
              value={mode}
              options={[
                ["form", "Form"],
                ["json", "JSON"],
              ]}
              onChange={setMode}
            />
            <button type="button" class="button" onClick={() => setText(textOf(example(contract.schema, contract.schema)))}>
              Example
            </button>
            <button type="button" class="button" onClick={() => void last()}>
              Like the last one
            </button>
          </div>
        }
      >
        {note && (
          <p class="small dim" role="status">
            {line(note)}
          </p>
        )}
        {mode === "form" && draft !== null ? (
          <SchemaForm schema={contract.schema} draft={draft} onChange={(next) => setText(textOf(next))} />
        ) : (
          <>
            {mode === "form" && <p class="small dim">What is written is no JSON, so that there is no form for it.</p>}
            <textarea
              class="code"
              rows={Math.min(30, Math.max(8, text.split("\n").length + 1))}
              aria-label="The body as JSON"
              spellcheck={false}
              autocomplete="off"
              aria-invalid={wrong.length ? "true" : undefined}
              value={text}
              onInput={(event) => setText(event.currentTarget.value)}
            />
          </>
        )}
        <div aria-live="polite">
          {wrong.length ? (
            <ul class="problems">
              {wrong.slice(0, 8).map((problem) => (
                <li key={problem.where + problem.what}>
                  <Glyph name="cross" />
                  <span>
                    {problem.where && <code>{line(problem.where)}: </code>}
                    {line(problem.what)}
                  </span>
                </li>
              ))}
            </ul>
          ) : (
            <p class="row small tone-ok" style={{ color: "var(--tone)" }}>
              <Glyph name="dot" /> It keeps to {line(contract.name)} version {contract.version}.
            </p>
          )}
        </div>
      </Panel>
      <Panel>
        <div class="row top" style={{ alignItems: "end" }}>
          <div class="field">
            <label for="publish-key">Key</label>
            <input
              id="publish-key"
              type="text"
              autocomplete="off"
              spellcheck={false}
              placeholder={contract.key === null ? "none" : `the field ${contract.key}`}
              value={key}
              onInput={(event) => setKey(event.currentTarget.value)}
            />
          </div>
          <div class="field">
            <label for="publish-count">How many</label>
            <input
              id="publish-count"
              type="number"
              min={1}
              max={1000}
              value={number}
              onInput={(event) => setNumber(Math.min(1000, Math.max(1, Math.round(Number(event.currentTarget.value)) || 1)))}
            />
          </div>
          <Action needs="operator" kind="primary" icon="publish" blocked={busy ? "It is being sent." : wrong.length ? "It does not keep to the contract." : null} onClick={() => void submit()}>
            {busy ? "Publishing…" : `Publish ${number === 1 ? "it" : several(number, "event")}`}
          </Action>
        </div>
        {number > 1 && <p class="reason">All {number} have the same body, and each an id of its own: they are no duplicates.</p>}
        {denied("operator") && <p class="reason">{denied("operator")}</p>}
        {failure && (
          <p class="problems" role="alert">
            {line(failure)}
          </p>
        )}
      </Panel>
    </>
  );
}

/** What became of what was published: live until everything is handled. */
function Result({ ids }: { ids: string[] }) {
  const first = ids[0] ?? "";
  const trace = useQuery<Trace>(`/api/trace/${encodeURIComponent(first)}`, 1);
  return (
    <div class="callout tone-ok" role="status">
      <Glyph name="dot" />
      <div>
        <p>
          The broker has {ids.length === 1 ? "it" : `all ${ids.length}`}: <Foreign text={first} mono />
          {ids.length > 1 && " and others"}
        </p>
        <p>{trace.data ? line(trace.data.sentence) : "No service has told of it yet."}</p>
      </div>
      <div class="row">
        <a class="button" href={to("trace", first)}>
          Trace
        </a>
        <a class="button" href={`/map${parameters({ corr: first })}`}>
          On the map
        </a>
      </div>
    </div>
  );
}
