import type { ComponentChildren } from "preact";
import { useEffect } from "preact/hooks";

import type { Group, Operation } from "../base/api";
import { clock, duration, several } from "../base/format";
import { heard, lost } from "../base/http";
import { line } from "../base/inert";
import { helpOpen, paletteOpen, trayOpen } from "../base/keys";
import { announced, streaming } from "../base/live";
import { frozen, refresh, useQuery } from "../base/query";
import { path } from "../base/route";
import { nextTheme, rail, theme } from "../base/settings";
import { deadLetters, me, noteGroups } from "../base/system";
import { now } from "../base/time";
import { Glyph } from "../ui/glyph";
import { Icon, Wheel } from "../ui/icon";
import { Help } from "./help";
import { ACT, type Entry, isAt, LAB, LOOK, SHORT } from "./navigation";
import { Palette } from "./palette";
import { Tray } from "./tray";

export function Shell({ children }: { children: ComponentChildren }) {
  const found = useQuery<Group[]>("/api/groups", 2);
  const operations = useQuery<Operation[]>("/api/operations", 5);
  useEffect(() => {
    if (found.data && found.at !== undefined) noteGroups(found.data, found.at);
  }, [found.data]);
  const pending = operations.data?.filter((one) => one.status === "sent" || one.status === "accepted").length ?? 0;
  return (
    <div class={rail.value === "narrow" ? "shell narrow-rail" : "shell"}>
      <a class="skip" href="#main" onClick={skip}>
        Skip to the content
      </a>
      <Rail />
      <TopBar pending={pending} />
      <div class="content">
        <Banners />
        <main id="main" tabIndex={-1}>
          {children}
        </main>
      </div>
      <BottomBar />
      {trayOpen.value && <Tray operations={operations} />}
      {paletteOpen.value && <Palette />}
      {helpOpen.value && <Help />}
      <div class="sr" aria-live="polite">
        {announced.value}
      </div>
    </div>
  );
}

function skip(event: MouseEvent) {
  event.preventDefault();
  document.getElementById("main")?.focus();
}

function Links({ entries }: { entries: Entry[] }) {
  return (
    <ul>
      {entries.map((entry) => (
        <li key={entry.href}>
          <a href={entry.href} aria-current={isAt(path.value, entry) ? "page" : undefined} title={rail.value === "narrow" ? entry.label : undefined}>
            <Icon name={entry.icon} />
            <span class={rail.value === "narrow" ? "sr" : "label"}>{entry.label}</span>
            {entry.href === "/dead" && <DeadBadge />}
          </a>
        </li>
      ))}
    </ul>
  );
}

function DeadBadge() {
  const count = deadLetters.value;
  if (!count) return null;
  return (
    <span class="badge" title={several(count, "dead letter")}>
      {count > 999 ? "999+" : count}
      <span class="sr"> waiting</span>
    </span>
  );
}

function Rail() {
  const narrow = rail.value === "narrow";
  return (
    <nav class="rail" aria-label="Screens">
      <a class="brand" href="/" aria-label="Millstream: overview">
        <Wheel />
        <span class="label">Millstream</span>
      </a>
      <Links entries={LOOK} />
      <Links entries={me.value?.lab ? [...ACT, LAB] : ACT} />
      <div class="fold">
        <button type="button" class="button plain" aria-expanded={narrow ? "false" : "true"} onClick={() => (rail.value = narrow ? "wide" : "narrow")}>
          <Icon name={narrow ? "unfold" : "fold"} />
          <span class={narrow ? "sr" : "label"}>{narrow ? "Widen" : "Fold"}</span>
        </button>
      </div>
    </nav>
  );
}

function BottomBar() {
  return (
    <nav class="bottombar" aria-label="Screens, short">
      {SHORT.map((entry) => (
        <a key={entry.href} href={entry.href} aria-current={isAt(path.value, entry) ? "page" : undefined}>
          <Icon name={entry.icon} />
          {entry.label === "Dead letters" ? "Dead" : entry.label === "Flow map" ? "Map" : entry.label}
          {entry.href === "/dead" && <DeadBadge />}
        </a>
      ))}
      <button type="button" onClick={() => (paletteOpen.value = true)}>
        <Icon name="more" />
        More
      </button>
    </nav>
  );
}

function TopBar({ pending }: { pending: number }) {
  const shown = theme.value;
  return (
    <header class="topbar">
      <div class="system">
        <bdi title={line(me.value?.name ?? "")}>{line(me.value?.name ?? "")}</bdi>
      </div>
      <button type="button" class="search" aria-haspopup="dialog" onClick={() => (paletteOpen.value = true)}>
        <Icon name="search" />
        <span class="words">Search, or paste an id</span>
        <kbd>{navigator.platform.startsWith("Mac") ? "⌘K" : "Ctrl K"}</kbd>
      </button>
      <span class="space" />
      <Freshness />
      <button
        type="button"
        class="button plain icon"
        aria-label={frozen.value ? "Go on: the page is live again" : "Freeze what is shown"}
        title={frozen.value ? "Go on (.)" : "Freeze what is shown (.)"}
        aria-pressed={frozen.value ? "true" : "false"}
        onClick={() => (frozen.value = !frozen.value)}
      >
        <Icon name={frozen.value ? "play" : "pause"} />
      </button>
      <button
        type="button"
        class="button plain icon"
        aria-label={pending ? `Operations, ${pending} under way` : "Operations"}
        title="Operations (o)"
        aria-expanded={trayOpen.value ? "true" : "false"}
        onClick={() => (trayOpen.value = !trayOpen.value)}
        style={{ position: "relative" }}
      >
        <Icon name="operations" />
        {pending > 0 && (
          <span class="badge" style={{ position: "absolute", top: "-2px", right: "-4px", background: "var(--accent)" }}>
            {pending}
          </span>
        )}
      </button>
      <button type="button" class="button plain icon" aria-label={`Theme: ${shown}`} title={`Theme: ${shown} (Shift T)`} onClick={nextTheme}>
        <Icon name={shown === "dark" ? "moon" : shown === "light" ? "sun" : "screen"} />
      </button>
      <button type="button" class="button plain icon wide" aria-label="Keyboard and help" title="Keyboard (?)" onClick={() => (helpOpen.value = true)}>
        <Icon name="help" />
      </button>
      {me.value && (
        <span class="tag wide" title="Your role in this console">
          {me.value.role}
          {me.value.read_only ? ", read-only" : ""}
        </span>
      )}
    </header>
  );
}

const LIVE = 3.5;

function Freshness() {
  const age = heard.value === null ? null : Math.max(0, now.value - heard.value);
  const [tone, word] =
    lost.value !== null
      ? (["error", "Disconnected"] as const)
      : frozen.value
        ? (["neutral", "Frozen"] as const)
        : age === null
          ? (["neutral", "Connecting"] as const)
          : age < LIVE && streaming.value
            ? (["ok", "Live"] as const)
            : age < LIVE
              ? (["warn", "Polling"] as const)
              : (["warn", `Delayed by ${duration(age)}`] as const);
  const glyph = tone === "ok" ? "dot" : tone === "error" ? "cross" : frozen.value ? "pause" : "ring";
  return (
    <span class={`fresh tone-${tone}`} title={`${word}. What is on screen is never older than this says.`}>
      <Glyph name={glyph} size={10} />
      <span class="words">{word}</span>
    </span>
  );
}

function Banners() {
  const gone = lost.value;
  if (gone !== null) {
    return (
      <div class="banner tone-error" role="alert">
        <Glyph name="cross" />
        <span>
          Connection lost {duration(Math.max(0, Math.floor(now.value - gone)))} ago. What you see is from {clock(heard.value ?? gone).slice(0, 8)}.
        </span>
        <button type="button" class="button tiny" onClick={refresh}>
          Reconnect
        </button>
      </div>
    );
  }
  if (frozen.value) {
    return (
      <div class="banner tone-neutral" role="status">
        <Glyph name="pause" />
        <span>The page stands still. The system goes on.</span>
        <button type="button" class="button tiny" onClick={() => (frozen.value = false)}>
          Go on
        </button>
      </div>
    );
  }
  return null;
}
