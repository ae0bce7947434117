import { useEffect, useId, useRef, useState } from "preact/hooks";

import type { Contract, Event, Found } from "../base/api";
import { ofGroup } from "../base/health";
import { get } from "../base/http";
import { line, middle } from "../base/inert";
import { helpOpen, paletteOpen } from "../base/keys";
import { frozen, useQuery } from "../base/query";
import { go, query as parameters, to } from "../base/route";
import { nextTheme } from "../base/settings";
import { groups } from "../base/system";
import { Icon, type IconName } from "../ui/icon";
import { ACT, LOOK } from "./navigation";

interface Item {
  id: string;
  section: string;
  what: string;
  why: string;
  icon: IconName;
  run: () => void;
}

const MOST = 8;

/** Opens anything: screens, groups, topics, contracts, and whatever a pasted id belongs to. */
export function Palette() {
  const [text, setText] = useState("");
  const [chosen, setChosen] = useState(0);
  const [found, setFound] = useState<{ text: string; found: Found } | null>(null);
  const [failure, setFailure] = useState("");
  const dialog = useRef<HTMLDialogElement>(null);
  const list = useId();
  const contracts = useQuery<Contract[]>("/api/contracts", 30);
  const what = text.trim();

  useEffect(() => {
    const before = document.activeElement as HTMLElement | null;
    dialog.current?.showModal();
    return () => {
      dialog.current?.close();
      if (before?.isConnected) before.focus();
    };
  }, []);

  useEffect(() => {
    if (what.length < 2) return undefined;
    const abort = new AbortController();
    const ask = () =>
      void get<Found>(`/api/search${parameters({ q: what })}`, abort.signal).then(
        (answer) => {
          setFound({ text: what, found: answer });
          setFailure("");
          // An id can be pasted before the event that it belongs to was told of.
          if (!answer.events.length) timer = setTimeout(ask, 1000);
        },
        (error: unknown) => {
          if (!abort.signal.aborted) setFailure(error instanceof Error ? error.message : String(error));
        },
      );
    let timer = setTimeout(ask, 100);
    return () => {
      clearTimeout(timer);
      abort.abort();
    };
  }, [what]);

  const close = () => (paletteOpen.value = false);
  const answered = found?.text === what ? found.found : null;
  const items = itemsFor(what, answered, contracts.data ?? []);
  const at = Math.min(chosen, Math.max(0, items.length - 1));
  const run = (item: Item | undefined) => {
    if (!item) return;
    close();
    item.run();
  };

  const keys = (event: KeyboardEvent) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) {
      event.preventDefault();
      setChosen((at + step + items.length) % Math.max(1, items.length));
      dialog.current?.querySelectorAll("[role=option]")[(at + step + items.length) % Math.max(1, items.length)]?.scrollIntoView({ block: "nearest" });
    } else if (event.key === "Enter") {
      event.preventDefault();
      run(items[at]);
    }
  };

  let section = "";
  return (
    <dialog
      ref={dialog}
      class="palette"
      aria-label="Open anything"
      onCancel={(event) => {
        event.preventDefault();
        close();
      }}
      onMouseDown={(event) => {
        if (event.target === dialog.current) close();
      }}
    >
      <div class="sheet">
        <div class="ask">
          <Icon name="search" />
          <input
            type="text"
            role="combobox"
            aria-label="Open a screen, a group, a topic, or paste any id"
            aria-expanded="true"
            aria-controls={list}
            aria-activedescendant={items[at] ? `${list}-${at}` : undefined}
            placeholder="An id, a key, a group, a screen…"
            autocomplete="off"
            spellcheck={false}
            value={text}
            onInput={(event) => {
              setText(event.currentTarget.value);
              setChosen(0);
            }}
            onKeyDown={keys}
          />
          <kbd>Esc</kbd>
        </div>
        <div role="listbox" id={list} aria-label="What there is">
          {items.map((item, index) => {
            const heading = item.section !== section ? (section = item.section) : null;
            return (
              <>
                {heading && (
                  <div class="section" role="presentation">
                    {heading}
                  </div>
                )}
                <div
                  key={item.id}
                  id={`${list}-${index}`}
                  role="option"
                  aria-selected={index === at ? "true" : "false"}
                  onMouseMove={() => setChosen(index)}
                  onClick={() => run(item)}
                >
                  <Icon name={item.icon} />
                  <bdi class="what">{item.what}</bdi>
                  <span class="why">{item.why}</span>
                </div>
              </>
            );
          })}
          {!items.length && (
            <p class="section" role="status">
              {failure
                ? line(failure)
                : what.length >= 2 && !answered
                  ? "Looking…"
                  : `Nothing is known by “${middle(what, 40)}”: no event, correlation, key, group, topic or contract.`}
            </p>
          )}
        </div>
        <div class="foot">Ids and keys have to be whole; names may be parts.</div>
      </div>
    </dialog>
  );
}

function itemsFor(what: string, found: Found | null, contracts: Contract[]): Item[] {
  const has = (text: string) => text.toLowerCase().includes(what.toLowerCase());
  const items: Item[] = [];
  if (found?.events.length) {
    const first = found.events[0] as Event;
    const one = new Set(found.events.map((event) => event.correlation)).size === 1;
    if (one) {
      items.push(
        { id: "trace", section: "Found", what: `Trace of ${middle(what, 40)}`, why: "what it caused", icon: "trace", run: () => go(to("trace", first.correlation)) },
        {
          id: "map",
          section: "Found",
          what: `Its path on the flow map`,
          why: "where it went",
          icon: "map",
          run: () => go(`/map${parameters({ corr: first.correlation })}`),
        },
      );
    }
    for (const event of found.events.slice(0, MOST)) {
      items.push({
        id: `event ${event.source} ${event.id}`,
        section: "Found",
        what: `${line(event.type)}  ${line(event.key ?? event.id)}`,
        why: one ? "event" : "trace",
        icon: "events",
        run: () => go(one ? to("events", event.id) + parameters({ source: event.source }) : to("trace", event.correlation)),
      });
    }
  }
  const named = [
    ...(groups.value ?? [])
      .filter((group) => has(group.name))
      .map(
        (group): Item => ({
          id: `group ${group.name}`,
          section: "Groups",
          what: line(group.name),
          why: ofGroup(group.verdict.state).word.toLowerCase(),
          icon: "groups",
          run: () => go(to("groups", group.name)),
        }),
      )
      .slice(0, what ? MOST : 4),
    ...(found?.topics ?? []).map(
      (topic): Item => ({ id: `topic ${topic}`, section: "Topics", what: line(topic), why: "topic", icon: "topics", run: () => go(to("topics", topic)) }),
    ),
    ...(what ? contracts.filter((contract) => has(contract.name)).slice(0, MOST) : []).map(
      (contract): Item => ({
        id: `contract ${contract.name}`,
        section: "Contracts",
        what: line(contract.name),
        why: `v${contract.version}`,
        icon: "contracts",
        run: () => go(to("contracts", contract.name)),
      }),
    ),
  ];
  const screens = [...LOOK, ...ACT]
    .filter((entry) => has(entry.label))
    .map((entry): Item => ({ id: entry.href, section: "Screens", what: entry.label, why: entry.key ? `g ${entry.key}` : "", icon: entry.icon, run: () => go(entry.href) }));
  const acts: Item[] = [
    { id: "freeze", section: "Do", what: frozen.value ? "Go on: live again" : "Freeze what is shown", why: ".", icon: frozen.value ? "play" : "pause", run: () => (frozen.value = !frozen.value) },
    { id: "theme", section: "Do", what: "Next theme", why: "Shift T", icon: "moon", run: nextTheme },
    { id: "help", section: "Do", what: "Keyboard", why: "?", icon: "help", run: () => (helpOpen.value = true) },
  ];
  if (what && groups.value) {
    for (const group of groups.value.filter((each) => has(each.name)).slice(0, 4)) {
      const verb = group.paused ? "resume" : "pause";
      acts.unshift({
        id: `${verb} ${group.name}`,
        section: "Do",
        what: `${group.paused ? "Resume" : "Pause"} ${line(group.name)}…`,
        why: "operator",
        icon: group.paused ? "play" : "pause",
        run: () => go(to("groups", group.name) + parameters({ do: verb })),
      });
    }
  }
  return what ? [...items, ...named, ...screens, ...acts.filter((item) => has(item.what))] : [...screens, ...named, ...acts];
}

