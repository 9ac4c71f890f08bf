//! The public HTTP API as the command line uses it.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Method, Request, StatusCode, body::Incoming, header};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;

use crate::failure::Failure;

/// The largest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// How long a call without a wait of its own may take.
const CALL_WAIT: Duration = Duration::from_secs(30);

/// Calls one server.
#[derive(Debug)]
pub(crate) struct Api {
    client: Client<HttpConnector, Full<Bytes>>,
    server: String,
}

/// An answer that is no error.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) tag: Option<String>,
    pub(crate) body: Value,
}

impl Api {
    pub(crate) fn new(server: &str) -> Self {
        Self {
            client: Client::builder(TokioExecutor::new()).build_http(),
            server: server.trim_end_matches('/').to_owned(),
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Answer, Failure> {
        self.call(Method::GET, path, &[], Bytes::new(), Duration::ZERO)
            .await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Answer, Failure> {
        let body = Bytes::from(body.to_string());
        self.call(Method::POST, path, &[], body, Duration::ZERO)
            .await
    }

    /// Calls and waits up to `wait` longer than a call may take anyhow.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
        wait: Duration,
    ) -> Result<Answer, Failure> {
        let request = self.request(method, path, headers, body)?;
        let exchange = async {
            let response = self
                .client
                .request(request)
                .await
                .map_err(|err| self.unreachable(&err))?;
            let (head, body) = response.into_parts();
            Ok((head, whole(body).await?))
        };
        let (head, body) = tokio::time::timeout(CALL_WAIT + wait, exchange)
            .await
            .map_err(|_| {
                Failure::Unreachable(format!("{} did not answer in time", self.server))
            })??;
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        if head.status.is_success() {
            let tag = head
                .headers
                .get(header::ETAG)
                .and_then(|tag| tag.to_str().ok());
            Ok(Answer {
                status: head.status,
                tag: tag.map(ToOwned::to_owned),
                body,
            })
        } else {
            Err(Failure::Refused {
                status: head.status.as_u16(),
                problem: body,
            })
        }
    }

    /// Posts, and hands on the answer line by line as it comes, however long that takes.
    pub(crate) async fn post_for_lines(
        &self,
        path: &str,
        body: &Value,
        mut on_line: impl FnMut(&Value) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let body = Bytes::from(body.to_string());
        let request = self.request(Method::POST, path, &[], body)?;
        let response = self.client.request(request).await;
        let (head, mut body) = response.map_err(|err| self.unreachable(&err))?.into_parts();
        if !head.status.is_success() {
            let problem = serde_json::from_slice(&whole(body).await?).unwrap_or(Value::Null);
            let status = head.status.as_u16();
            return Err(Failure::Refused { status, problem });
        }
        let mut rest = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|err| broken_off(&err))?;
            rest.extend_from_slice(frame.data_ref().map_or(&[], |data| data.as_ref()));
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<_> = rest.drain(..=end).collect();
                on_line(&serde_json::from_slice(&line).unwrap_or(Value::Null))?;
            }
        }
        Ok(())
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, Failure> {
        let uri = format!("{}{path}", self.server);
        let mut request = Request::builder()
            .method(method)
            .uri(&uri)
            .header(header::CONTENT_TYPE, "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request
            .body(Full::new(body))
            .map_err(|err| Failure::Usage(format!("{uri} cannot be called: {err}")))
    }

    fn unreachable(&self, err: &hyper_util::client::legacy::Error) -> Failure {
        let source =
            std::error::Error::source(err).map_or(String::new(), |source| format!(" ({source})"));
        Failure::Unreachable(format!(
            "{} cannot be reached{source}; start `workload dev`, or name another server with --server",
            self.server
        ))
    }
}

async fn whole(body: Incoming) -> Result<Bytes, Failure> {
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
    Ok(body.map_err(|err| broken_off(&*err))?.to_bytes())
}

fn broken_off(err: &dyn std::error::Error) -> Failure {
    Failure::Unreachable(format!("the answer broke off: {err}"))
}
