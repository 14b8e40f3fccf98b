//! Against a host that says what it was told to say.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header::CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures_util::stream;
use tokio::net::UnixListener;
use tokio::sync::Notify;

use super::super::report::tests::view as done;
use super::super::view::Nothing;
use super::*;
use crate::api::client::{Client, Endpoint};
use crate::api::{ErrorBody, ErrorCode, MigrationReason};
use crate::cli::exit;

/// What a watch says.
#[derive(Clone)]
enum Say {
    View(Box<MigrationView>),
    /// Nothing, until somebody cancels.
    AwaitCancel,
}

/// The host: what each watch says; then it knows nothing of the migration any more.
#[derive(Clone, Default)]
struct Stub {
    watches: Arc<Mutex<VecDeque<Vec<Say>>>>,
    cancelled: Arc<Notify>,
}

struct Stand {
    target: Target,
    path: PathBuf,
}

impl Stand {
    fn new(watches: impl IntoIterator<Item = Vec<Say>>) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("roam-travel-{}-{}.sock", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        let stub = Stub { watches: Arc::new(Mutex::new(watches.into_iter().collect())), ..Stub::default() };
        let router = Router::new()
            .route("/v1/migrations/{id}/watch", get(watch))
            .route("/v1/migrations/{id}", axum::routing::delete(cancel))
            .with_state(stub);
        let listener = UnixListener::bind(&path).unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { target: Target { name: "host-a".into(), client: Client::new(Endpoint::Unix(path.clone())) }, path }
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn watch(State(stub): State<Stub>) -> Response {
    let Some(script) = stub.watches.lock().unwrap().pop_front() else {
        let body = ErrorBody { code: ErrorCode::NotFound, message: "unknown".into() };
        return (StatusCode::NOT_FOUND, Json(body)).into_response();
    };
    let pieces = stream::iter(script).then(move |say| {
        let cancelled = stub.cancelled.clone();
        async move {
            Ok::<_, Infallible>(match say {
                Say::View(view) => format!("event: migration\ndata: {}\n\n", serde_json::to_string(&view).unwrap()),
                Say::AwaitCancel => {
                    cancelled.notified().await;
                    ":\n\n".to_owned()
                }
            })
        }
    });
    ([(CONTENT_TYPE, "text/event-stream")], Body::from_stream(pieces)).into_response()
}

async fn cancel(State(stub): State<Stub>) -> (StatusCode, Json<MigrationView>) {
    stub.cancelled.notify_one();
    (StatusCode::ACCEPTED, Json(running()))
}

fn running() -> MigrationView {
    MigrationView { state: MigrationState::Running, report: None, ended_ms: None, ..done() }
}

fn failed(code: &str) -> MigrationView {
    let reason = MigrationReason { code: code.into(), message: "so it is".into() };
    MigrationView { state: MigrationState::Failed, reason: Some(reason), report: None, ..done() }
}

fn say(views: impl IntoIterator<Item = MigrationView>) -> Vec<Say> {
    views.into_iter().map(|view| Say::View(Box::new(view))).collect()
}

/// Follows with Ctrl-C pressed as often as that.
fn follow_with(presses: u32, watches: impl IntoIterator<Item = Vec<Say>>) -> Result<End> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let stand = Stand::new(watches);
        let (_count, counted) = watch::channel(presses);
        follow(&stand.target, running(), &mut Nothing, &Interrupts(counted)).await
    })
}

#[test]
fn it_is_followed_to_its_end() {
    assert!(matches!(follow_with(0, [say([running(), running(), done()])]), Ok(End::Moved(view)) if view == done()));
    let end = follow_with(0, [say([running(), failed("room")])]);
    assert!(matches!(end, Ok(End::Stayed { cancelled: false, .. })));
}

#[test]
fn a_daemon_that_is_started_again_is_asked_again() {
    let end = follow_with(0, [say([running()]), say([]), say([running(), done()])]);
    assert!(matches!(end, Ok(End::Moved(_))));
    let lost = follow_with(0, [say([running()])]).err().unwrap();
    assert_eq!(exit::of(&lost), exit::UNSETTLED, "{lost:#}");
}

#[test]
fn the_first_ctrl_c_cancels_and_the_second_leaves() {
    let mut script = say([running()]);
    script.push(Say::AwaitCancel);
    script.extend(say([failed("cancelled")]));
    assert!(matches!(follow_with(1, [script.clone()]), Ok(End::Stayed { cancelled: true, .. })));
    assert!(matches!(follow_with(2, [script]), Ok(End::Left(_))));
    // It came too late.
    let mut late = say([running()]);
    late.push(Say::AwaitCancel);
    late.extend(say([done()]));
    assert!(matches!(follow_with(1, [late]), Ok(End::Moved(_))));
}
