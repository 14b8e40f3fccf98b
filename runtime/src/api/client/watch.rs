//! What daemons send to those who follow: the controller's table, a host's migration.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, stream};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;

use super::sse::{Parser, SseEvent};
use super::{ClientError, Endpoint};
use crate::api::MigrationView;
use crate::api::sdn::WatchEvent;

/// Events as they come; ends when the daemon ends it.
type Events<T> = Pin<Box<dyn Stream<Item = Result<T, ClientError>> + Send>>;
/// Events as they come; ends when the controller ends it.
pub type WatchStream = Events<WatchEvent>;
/// How a migration is, as it goes on; ends after it was over, or when its host goes down.
pub type MigrationStream = Events<MigrationView>;

/// How long a watch may be silent. Daemons send something every few seconds, if only a comment.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);

struct Reader<T> {
    endpoint: Arc<Endpoint>,
    body: Incoming,
    parser: Parser,
    /// One of a name that is not known is of a later daemon, and is left out.
    read: fn(SseEvent) -> Result<Option<T>, serde_json::Error>,
}

/// What the controller says, from a `text/event-stream` body.
pub(super) fn table(endpoint: Arc<Endpoint>, body: Incoming) -> WatchStream {
    events(Reader { endpoint, body, parser: Parser::new(), read })
}

/// What a host says of a migration.
pub(super) fn migration(endpoint: Arc<Endpoint>, body: Incoming) -> MigrationStream {
    events(Reader { endpoint, body, parser: Parser::new(), read: read_migration })
}

fn events<T: Send + 'static>(reader: Reader<T>) -> Events<T> {
    Box::pin(stream::try_unfold(
        reader,
        |mut reader| async move { Ok(reader.event().await?.map(|event| (event, reader))) },
    ))
}

impl<T> Reader<T> {
    async fn event(&mut self) -> Result<Option<T>, ClientError> {
        loop {
            while let Some(event) = self.parser.next() {
                if let Some(event) = (self.read)(event).map_err(|source| self.endpoint.protocol(source))? {
                    return Ok(Some(event));
                }
            }
            let frame = tokio::time::timeout(SILENCE_LIMIT, self.body.frame()).await;
            let frame = frame.map_err(|_elapsed| self.endpoint.timed_out(SILENCE_LIMIT))?;
            let Some(frame) = frame else { return Ok(None) };
            let frame = frame.map_err(|source| self.endpoint.lost(source))?;
            if let Some(bytes) = frame.data_ref() {
                self.parser.push(bytes).map_err(|source| self.endpoint.protocol(source))?;
            }
        }
    }
}

fn data<T: DeserializeOwned>(event: &SseEvent) -> Result<T, serde_json::Error> {
    serde_json::from_slice(&event.data)
}

fn read_migration(event: SseEvent) -> Result<Option<MigrationView>, serde_json::Error> {
    Ok(match event.name.as_str() {
        "migration" => Some(data(&event)?),
        _ => None,
    })
}

fn read(event: SseEvent) -> Result<Option<WatchEvent>, serde_json::Error> {
    Ok(Some(match event.name.as_str() {
        "table" => WatchEvent::Table(data(&event)?),
        "update" => WatchEvent::Update(data(&event)?),
        "figures" => WatchEvent::Figures(data(&event)?),
        "goodbye" => WatchEvent::Goodbye,
        _ => return Ok(None),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str, data: &str) -> SseEvent {
        SseEvent { name: name.into(), data: data.into() }
    }

    #[test]
    fn the_name_says_what_the_data_is() {
        let table = r#"{"revision":3,"hosts":[],"routes":[],"fronts":[]}"#;
        assert!(matches!(read(event("table", table)), Ok(Some(WatchEvent::Table(table))) if table.revision.0 == 3));
        let update = r#"{"revision":4,"changes":[{"no_route":"02:00:00:00:00:01"}]}"#;
        assert!(matches!(read(event("update", update)), Ok(Some(WatchEvent::Update(_)))));
        assert!(matches!(read(event("figures", "[]")), Ok(Some(WatchEvent::Figures(_)))));
        assert!(matches!(read(event("goodbye", "")), Ok(Some(WatchEvent::Goodbye))));
        assert!(matches!(read(event("something new", "x")), Ok(None)));
        assert!(read(event("table", "{}")).is_err());
    }
}
