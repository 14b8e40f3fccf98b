//! What the controller's no is over HTTP.

use roam_sdn::controller::ControllerError;
use roam_sdn::store::StoreError;
use roam_sdn::table::Refused;

use crate::api::ErrorCode;
use crate::sentence::sentence;
use crate::serve::answer::Refusal;

impl From<ControllerError> for Refusal {
    fn from(error: ControllerError) -> Self {
        Self::new(code(&error), sentence(&error))
    }
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        ControllerError::from(refused).into()
    }
}

fn code(error: &ControllerError) -> ErrorCode {
    match error {
        ControllerError::Refused(refused) => code_of_refused(refused),
        ControllerError::NotKept(store) if matches!(**store, StoreError::Full(_)) => ErrorCode::DiskFull,
        ControllerError::NotKept(_) | ControllerError::Counters(_) | ControllerError::Closing => ErrorCode::Unavailable,
        ControllerError::Unsettled { .. } => ErrorCode::Unsettled,
        ControllerError::NoSuch(_) => ErrorCode::NotFound,
        ControllerError::Ambiguous(_) | ControllerError::OwnNode(_) | ControllerError::OwnAddress(_) => {
            ErrorCode::Conflict
        }
    }
}

fn code_of_refused(refused: &Refused) -> ErrorCode {
    match refused {
        Refused::Fenced { .. } | Refused::Released { .. } => ErrorCode::Fenced,
        Refused::Taken { .. } | Refused::Owns { .. } | Refused::Vtep { .. } => ErrorCode::Conflict,
        Refused::NoRoute(_) | Refused::NoHost(_) | Refused::NoFront(_) => ErrorCode::NotFound,
        Refused::Lost(_)
        | Refused::Gateway(_)
        | Refused::NoHostAddress(_)
        | Refused::MigrateAddress(_)
        | Refused::Families(_)
        | Refused::FrontAddress(_)
        | Refused::Full { .. } => ErrorCode::Invalid,
    }
}
