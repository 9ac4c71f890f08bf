// The members of the cluster: who is there, whether it is ready, and what it carries.

import { html } from "../core/html.js";
import { bytes, count } from "../core/format.js";
import { pathOf, read } from "../core/api.js";
import { useRead } from "../core/live.js";
import { Card, Empty, Head, Loaded, State, Theirs, Time } from "../part/basics.js";

const EVERY_MS = 5_000;

function Row({ member }) {
  return html`<tr>
    <td data-name="Member"><${Theirs} text=${member.address} mono /></td>
    <td data-name="State"><span><${State} name=${member.ready ? "ready" : "not ready"} />${member.why && html` <span class="soft small"><${Theirs} text=${member.why} /></span>`}</span></td>
    <td data-name="Version"><${Theirs} text=${member.version} /></td>
    <td data-name="Shards" class="number"><span>${count(member.shards)}</span></td>
    <td data-name="Coming" class="number"><span>${count(member.coming)}</span></td>
    <td data-name="Refused" class="number"><span>${count(member.refused)}</span></td>
    <td data-name="Tasks" class="number"><span>${count(member.tasks)}</span></td>
    <td data-name="Memory" class="number"><span>${bytes(member.bytes)}</span></td>
    <td data-name="Calls" class="number"><span>${count(member.calls)}</span></td>
    <td data-name="Started"><${Time} at=${member.started_at} /></td>
  </tr>`;
}

export function Members() {
  const all = useRead((signal) => read(pathOf("members"), { signal }), [], { everyMs: EVERY_MS });
  return html`
    <${Head} title="Members" />
    <${Loaded} read=${all} what="members">${({ members }) => html`<${Card} title="Who schedules" flush>
      ${members.length === 0
        ? html`<${Empty} title="No member is there"><p>Tasks are accepted and wait until a member is there: start a <code>workload-scheduler</code>.</p><//>`
        : html`<div class="scroll" tabindex="0" role="group" aria-label="Members"><table class="rows folds">
            <thead><tr><th>Member</th><th>State</th><th>Version</th><th class="number">Shards</th><th class="number">Coming</th><th class="number">Refused</th><th class="number">Tasks</th><th class="number">Memory</th><th class="number">Calls</th><th>Started</th></tr></thead>
            <tbody>${members.map((member) => html`<${Row} key=${member.address} member=${member} />`)}</tbody>
          </table></div>`}
    <//>`}<//>
    <p class="soft small">Shards: owned now. Coming: being taken over. Refused: shards that it will not own, since their log is not the one it knew; its log says why.
      Tasks and memory: what its shards hold. Calls: long polls and streams of workers that are open.</p>`;
}
