// The members of the cluster: who is there, whether it is ready, and what it carries.

import { html } from "../core/html.js";
import { bytes, count } from "../core/format.js";
import { pathOf, read } from "../core/api.js";
import { useRead } from "../core/live.js";
import { Card, Empty, Head, Loaded, Soft, State, Theirs, Time } from "../part/basics.js";
import { Cell, Table } from "../part/table.js";

const COLUMNS = ["Member", "State", "Version", "#Shards", "#Coming", "#Refused", "#Tasks", "#Memory", "#Calls", "Started"];
const EVERY_MS = 5_000;

function Row({ member }) {
  return html`<tr>
    <${Cell} name="Member" text=${member.address} mono />
    <${Cell} name="State">
      <${State} name=${member.ready ? "ready" : "not ready"} />${member.why && html` <${Soft}><${Theirs} text=${member.why} /><//>`}
    <//>
    <${Cell} name="Version" text=${member.version} />
    <${Cell} name="Shards" kind="number">${count(member.shards)}<//>
    <${Cell} name="Coming" kind="number">${count(member.coming)}<//>
    <${Cell} name="Refused" kind="number">${count(member.refused)}<//>
    <${Cell} name="Tasks" kind="number">${count(member.tasks)}<//>
    <${Cell} name="Memory" kind="number">${bytes(member.bytes)}<//>
    <${Cell} name="Calls" kind="number">${count(member.calls)}<//>
    <${Cell} name="Started"><${Time} at=${member.started_at} /><//>
  </tr>`;
}

export function Members() {
  const all = useRead((signal) => read(pathOf("members"), { signal }), [], { everyMs: EVERY_MS });
  return html`
    <${Head} title="Members" />
    <${Loaded} read=${all} what="members">${({ members }) => html`<${Card} title="Who schedules" flush>
      ${members.length === 0
        ? html`<${Empty} title="No member is there">
            <p>Tasks are accepted and wait until a member is there: start a <code>workload-scheduler</code>.</p>
          <//>`
        : html`<${Table} label="Members" columns=${COLUMNS}>
            ${members.map((member) => html`<${Row} key=${member.address} member=${member} />`)}
          <//>`}
    <//>`}<//>
    <p class="soft small">Shards: owned now. Coming: being taken over. Refused: shards that it will not own, since their log is not
      the one it knew; its own log lines say why.
      Tasks and memory: what its shards hold. Calls: long polls and streams of workers that are open.</p>`;
}
