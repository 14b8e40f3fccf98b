//! Counters for all who watch them: read once a second, however many they are, and only while there is one.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use roam_sdn::Controller;
use tokio::sync::watch;

use crate::sentence::sentence;

/// From one reading to the next.
const PAUSE: Duration = Duration::from_secs(1);

/// The last reading, as JSON. Clones are the same one.
#[derive(Clone)]
pub(super) struct Figures {
    readings: watch::Sender<Bytes>,
}

impl Figures {
    /// Reads until `down` is ready.
    pub(super) fn begin(controller: Controller, down: impl Future<Output = ()> + Send + 'static) -> Self {
        let (readings, _) = watch::channel(Bytes::new());
        let figures = Self { readings: readings.clone() };
        tokio::spawn(async move {
            let mut down = pin!(down);
            loop {
                tokio::select! {
                    () = &mut down => return,
                    () = tokio::time::sleep(PAUSE) => {}
                }
                if readings.receiver_count() > 0 {
                    readings.send_replace(read(&controller).await);
                }
            }
        });
        figures
    }

    /// The readings from now on. What nobody took in time is replaced by the next.
    pub(super) fn subscribe(&self) -> watch::Receiver<Bytes> {
        self.readings.subscribe()
    }
}

async fn read(controller: &Controller) -> Bytes {
    // Without counters there are still the owners and their switches.
    let counters = controller.counters().await.unwrap_or_else(|error| {
        tracing::debug!(error = sentence(&error), "figures without counters");
        BTreeMap::new()
    });
    let views = controller.routes(&counters);
    serde_json::to_vec(&views).expect("views are plain data with text as keys").into()
}
