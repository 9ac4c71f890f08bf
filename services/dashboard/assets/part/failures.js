// Failed attempts of about the last hour, grouped by their cause.

import { html } from "../core/html.js";
import { count } from "../core/format.js";
import { href } from "../core/router.js";
import { Theirs, Time } from "./basics.js";
import { PipelineLink } from "./frame.js";

/** `failures` are those of stats; where several pipelines are shown together each has `app` and `name`. */
export function Failures({ failures, app, withPipeline }) {
  if (failures.length === 0) return html`<p class="empty">No attempt has failed in about the last hour.</p>`;
  return html`<ul class="causes">${failures.map(
    (failure) => html`<li class="cause" key=${`${failure.name}/${failure.code}/${failure.task}`}>
      <div>
        <code class="theirs">${failure.code}</code>${withPipeline && html` <span class="small"><${PipelineLink} app=${failure.app} name=${failure.name} /></span>`}
        <p class="clip"><${Theirs} text=${failure.message} max=${300} /></p>
        <p class="soft small">newest <${Time} at=${failure.last_at} />${failure.task && html` · <a class="mono" href=${href.task(failure.app ?? app, failure.task)}>${failure.task}</a>`}</p>
      </div>
      <div class="count" title="failed attempts">${count(failure.count)}</div>
    </li>`,
  )}</ul>`;
}
