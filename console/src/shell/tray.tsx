import type { Operation } from "../base/api";
import { ofOperation } from "../base/health";
import { trayOpen } from "../base/keys";
import { line } from "../base/inert";
import type { Query } from "../base/query";
import { now } from "../base/time";
import { State } from "../ui/glyph";
import { Icon } from "../ui/icon";
import { mine } from "../ui/operate";
import { Ready } from "../ui/states";
import { Foreign, Time } from "../ui/text";

const RECENT = 3600;

/** What is under way, and what became of it. */
export function Tray({ operations }: { operations: Query<Operation[]> }) {
  return (
    <section class="tray" aria-label="Operations">
      <header>
        <h2>Operations</h2>
        <a href="/operations" class="small">
          All of them
        </a>
        <button type="button" class="button plain tiny icon" aria-label="Close" onClick={() => (trayOpen.value = false)}>
          <Icon name="close" />
        </button>
      </header>
      <Ready query={operations} lines={3}>
        {(all) => {
          const recent = all.filter((one) => now.value - one.at < RECENT || mine.value.includes(one.id)).slice(0, 20);
          if (!recent.length) return <p class="dim" style={{ padding: "16px" }}>Nothing in the last hour.</p>;
          return (
            <ul class="list">
              {recent.map((one) => (
                <OperationLine key={one.id} operation={one} />
              ))}
            </ul>
          );
        }}
      </Ready>
    </section>
  );
}

function OperationLine({ operation }: { operation: Operation }) {
  const count = operation.events.length;
  return (
    <li>
      <div class="what">
        <span>
          {operation.kind}
          {count ? ` ${count}` : ""} <Foreign text={operation.group} />
        </span>
        <State look={ofOperation(operation.status)} />
      </div>
      <div class="small faint">
        <Time at={operation.at} /> by {line(operation.by)}
        {operation.detail && `: ${line(operation.detail)}`}
      </div>
    </li>
  );
}
