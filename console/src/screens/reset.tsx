import { useState } from "preact/hooks";

import type { GroupDetail, ResetRow } from "../base/api";
import { exact, several } from "../base/format";
import { Failure } from "../base/http";
import { line } from "../base/inert";
import { useQuery } from "../base/query";
import { query as parameters } from "../base/route";
import { Dialog } from "../ui/dialog";
import { Glyph } from "../ui/glyph";
import { operate } from "../ui/operate";
import { Segments } from "../ui/parts";
import { Ready } from "../ui/states";
import { Foreign } from "../ui/text";

type Target = "earliest" | "latest" | "time" | "back";

/** A group goes back so many events at most: the server counts them. */
const MOST_BACK = 10_000;

/** Moves a group: where to, what that means for each partition, and whether effects happen again. */
export function ResetSheet({ group, onClose }: { group: GroupDetail; onClose: () => void }) {
  const [target, setTarget] = useState<Target>("time");
  const [time, setTime] = useState(() => local(Date.now() - 3600_000));
  const [back, setBack] = useState("100");
  const [effects, setEffects] = useState(false);
  const [reason, setReason] = useState("");
  const [typed, setTyped] = useState("");
  const [failure, setFailure] = useState("");
  const [busy, setBusy] = useState(false);
  const events = count(back);
  const to = target === "time" ? seconds(time) : target === "back" ? events && `back:${events}` : target;
  // To count events they are read: not as often.
  const every = target === "back" ? 30 : 5;
  const preview = useQuery<ResetRow[]>(to === null ? null : `/api/reset-preview/${encodeURIComponent(group.name)}${parameters({ to })}`, every);
  const ready = to !== null && preview.data !== undefined && reason.trim() !== "" && typed === group.name && !busy;

  const submit = async () => {
    if (!ready || to === null) return;
    setBusy(true);
    try {
      await operate({ kind: "reset", group: group.name, to, effects, reason: reason.trim() });
      onClose();
    } catch (error) {
      setFailure(error instanceof Failure ? error.message : String(error));
      setBusy(false);
    }
  };

  return (
    <Dialog
      wide
      title={`Reset the position of ${line(group.name)}`}
      onClose={onClose}
      footer={
        <>
          <button type="button" class="button" onClick={onClose}>
            Cancel
          </button>
          <button type="button" class="button primary danger" disabled={!ready} onClick={() => void submit()}>
            {busy ? "Sending…" : "Reset"}
          </button>
        </>
      }
    >
      <fieldset class="row">
        <legend class="small dim">1. Where to</legend>
        <Segments
          label="Where to"
          value={target}
          options={[
            ["earliest", "The oldest event"],
            ["time", "A time"],
            ["back", "Events back"],
            ["latest", "The end"],
          ]}
          onChange={setTarget}
        />
        {target === "time" && (
          <input type="datetime-local" step="1" aria-label="The time, as of this browser" value={time} onInput={(event) => setTime(event.currentTarget.value)} />
        )}
        {target === "back" && (
          <input type="number" min={1} max={MOST_BACK} step={1} aria-label="How many events, in each partition" value={back} onInput={(event) => setBack(event.currentTarget.value)} />
        )}
      </fieldset>
      <div>
        <p class="small dim">2. What that means</p>
        {to === null ? (
          <p class="problems">{target === "back" ? `This is no number from 1 to ${exact(MOST_BACK)}.` : "This is no time."}</p>
        ) : (
          <Ready query={preview} lines={3}>
            {(rows) => <Preview rows={rows} lack={lack(rows, target, events)} />}
          </Ready>
        )}
      </div>
      <fieldset class="form-list" style={{ gap: "4px" }}>
        <legend class="small dim">3. Effects that have happened already</legend>
        <label class="option">
          <input type="radio" name="effects" checked={!effects} onChange={() => setEffects(false)} />
          <span>
            Skip what this group has handled before: the inbox recognises it. <span class="faint">Only what it has not seen is handled.</span>
          </span>
        </label>
        <label class="option">
          <input type="radio" name="effects" checked={effects} onChange={() => setEffects(true)} />
          <span>
            Handle everything again, effects included. <span class="faint">Mails are sent again, and rows written again.</span>
          </span>
        </label>
      </fieldset>
      <div class="field">
        <label for="reset-reason">4. Reason</label>
        <input id="reset-reason" type="text" maxLength={500} autocomplete="off" value={reason} onInput={(event) => setReason(event.currentTarget.value)} />
      </div>
      <div class="field">
        <label for="reset-confirm">
          5. Type <Foreign text={group.name} mono /> to go on
        </label>
        <input id="reset-confirm" type="text" autocomplete="off" spellcheck={false} value={typed} onInput={(event) => setTyped(event.currentTarget.value)} />
      </div>
      {failure && (
        <p class="problems" role="alert">
          {line(failure)}
        </p>
      )}
    </Dialog>
  );
}

/** In which partitions there is less than was asked for, as a sentence. */
function lack(rows: ResetRow[], target: Target, events: string | null): string | null {
  const short = rows.filter((row) => (target === "time" && row.events === 0) || (target === "back" && row.again < Number(events))).length;
  const have = `${several(short, "partition")} ${short === 1 ? "has" : "have"}`;
  if (short === 0) return null;
  return target === "time" ? `${have} no event at or after that time.` : `${have} fewer events to go back.`;
}

function Preview({ rows, lack }: { rows: ResetRow[]; lack: string | null }) {
  const again = rows.reduce((sum, row) => sum + row.again, 0);
  const left = rows.reduce((sum, row) => sum + (row.before === null ? 0 : Math.max(0, Number(BigInt(row.after) - BigInt(row.before)))), 0);
  return (
    <>
      <p>
        {again > 0 && `${several(again, "event")} that it was past come again. `}
        {left > 0 && `${several(left, "event")} that wait are never handled by this group. `}
        {again === 0 && left === 0 && "It is there already: nothing changes."}
      </p>
      {lack && (
        <p class="row small tone-warn" style={{ color: "var(--tone)", flexWrap: "nowrap" }}>
          <Glyph name="up" /> {lack}
        </p>
      )}
      <div class="scroll" style={{ maxHeight: "220px", overflow: "auto" }} tabIndex={0} role="region" aria-label="Preview">
        <table class="table-dense">
          <thead>
            <tr>
              <th>Partition</th>
              <th class="num">Now at</th>
              <th class="num">Then at</th>
              <th class="num">To handle</th>
              <th class="num">Again</th>
            </tr>
          </thead>
          <tbody>
            {rows.map((row) => (
              <tr key={`${row.topic} ${row.partition}`}>
                <td>
                  <Foreign text={row.topic} /> {row.partition}
                </td>
                <td class="num">{exact(row.before)}</td>
                <td class="num">{exact(row.after)}</td>
                <td class="num">{exact(row.events)}</td>
                <td class="num">{exact(row.again)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </>
  );
}

function local(millis: number): string {
  const date = new Date(millis - new Date(millis).getTimezoneOffset() * 60_000);
  return date.toISOString().slice(0, 19);
}

function seconds(time: string): string | null {
  const at = new Date(time).getTime();
  return Number.isNaN(at) ? null : String(at / 1000);
}

function count(text: string): string | null {
  const events = Number(text);
  return Number.isInteger(events) && events >= 1 && events <= MOST_BACK ? String(events) : null;
}
