//! The files of the client, in this program.

use std::sync::LazyLock;

use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};

macro_rules! files {
    ($($path:literal),+ $(,)?) => {
        &[$(($path, include_bytes!(concat!("../assets/", $path)))),+]
    };
}

/// The one page.
pub(crate) const PAGE: &[u8] = include_bytes!("../assets/index.html");

/// All others, by their paths below `/assets/{release}/`.
pub(crate) const FILES: &[(&str, &[u8])] = files![
    "app.js",
    "core/api.js",
    "core/format.js",
    "core/html.js",
    "core/json.js",
    "core/keys.js",
    "core/live.js",
    "core/rates.js",
    "core/router.js",
    "core/theme.js",
    "favicon.svg",
    "page/attempts.js",
    "page/bulk_cancel.js",
    "page/dead_letters.js",
    "page/members.js",
    "page/overview.js",
    "page/pipeline.js",
    "page/pipeline_mode.js",
    "page/pipeline_parts.js",
    "page/pipelines.js",
    "page/redrive.js",
    "page/task.js",
    "page/tasks.js",
    "part/basics.js",
    "part/chart.js",
    "part/dialog.js",
    "part/failures.js",
    "part/frame.js",
    "part/output.js",
    "part/table.js",
    "part/task_rows.js",
    "style/base.css",
    "style/frame.css",
    "style/pages.css",
    "style/parts.css",
    "style/table.css",
    "vendor/htm.LICENSE",
    "vendor/htm.js",
    "vendor/preact-hooks.js",
    "vendor/preact-signals.js",
    "vendor/preact.LICENSE",
    "vendor/preact.js",
    "vendor/signals-core.js",
    "vendor/signals.LICENSE",
    "vendor/uplot.LICENSE",
    "vendor/uplot.css",
    "vendor/uplot.js",
];

/// Names these very files: the beginning of a hash of all of them.
pub(crate) static RELEASE: LazyLock<String> = LazyLock::new(|| {
    let mut hash = Sha256::new();
    for (path, bytes) in FILES.iter().chain([&("index.html", PAGE)]) {
        for part in [path.as_bytes(), bytes] {
            hash.update(part.len().to_le_bytes());
            hash.update(part);
        }
    }
    HEXLOWER.encode(&hash.finalize()[..8])
});

/// A file and its content type.
pub(crate) fn find(path: &str) -> Option<(&'static [u8], &'static str)> {
    let (_, bytes) = FILES.iter().find(|(name, _)| *name == path)?;
    let content_type = match path.rsplit_once('.')?.1 {
        "js" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "svg" => "image/svg+xml",
        _ => "text/plain; charset=utf-8",
    };
    Some((bytes, content_type))
}
