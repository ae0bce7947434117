import { helpOpen } from "../base/keys";
import { singleKeys } from "../base/settings";
import { Dialog } from "../ui/dialog";
import { ACT, LOOK } from "./navigation";

const KEYS: [keys: string[], what: string][] = [
  [["Ctrl K", "⌘ K"], "open anything: a screen, a group, any pasted id"],
  [["/"], "the filter of this screen, or search"],
  [["j", "k"], "the next row, the row before; arrows do the same"],
  [["Enter"], "open the row"],
  [["x"], "select the row"],
  [["y"], "copy the row's id"],
  [["t"], "the trace of the row's event"],
  [["."], "freeze what is shown, or go on"],
  [["o"], "operations"],
  [["["], "fold the rail"],
  [["Shift T"], "the next theme"],
  [["Ctrl Shift C", "⌘ Shift C"], "copy a link to exactly this"],
  [["Esc"], "close"],
];

const MAP: [keys: string[], what: string][] = [
  [["Tab"], "from node to node, in the direction of flow"],
  [["← →", "↑ ↓"], "along edges, and between neighbours"],
  [["Enter"], "focus on a node and what it touches"],
  [["f"], "fit"],
  [["+", "−"], "nearer, farther"],
  [["l"], "left to right, or top to bottom"],
  [["Space"], "play the path of a correlation"],
];

export function Help() {
  return (
    <Dialog title="Keyboard" onClose={() => (helpOpen.value = false)} wide>
      <div class="columns">
        <Keys rows={KEYS} title="Everywhere" />
        <div class="stack">
          <Keys
            rows={[...LOOK, ...ACT].filter((entry) => entry.key).map((entry) => [[`g ${entry.key}`], entry.label])}
            title="Go to"
          />
          <Keys rows={MAP} title="On the flow map" />
        </div>
      </div>
      <label class="option">
        <input type="checkbox" checked={singleKeys.value === "on"} onChange={(event) => (singleKeys.value = event.currentTarget.checked ? "on" : "off")} />
        Single keys do something
      </label>
    </Dialog>
  );
}

function Keys({ rows, title }: { rows: [keys: string[], what: string][]; title: string }) {
  return (
    <div>
      <h3>{title}</h3>
      <dl class="facts" style={{ marginTop: "8px" }}>
        {rows.map(([keys, what]) => (
          <>
            <dt>
              {keys.map((key) => (
                <>
                  <kbd>{key}</kbd>{" "}
                </>
              ))}
            </dt>
            <dd>{what}</dd>
          </>
        ))}
      </dl>
    </div>
  );
}
