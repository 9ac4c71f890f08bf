//! Every error survives the way over the wire.

use super::*;

fn every_error() -> Vec<Error> {
    let second = Duration::from_secs(1);
    let name = || "x".to_owned();
    let mut all = vec![
        Error::Malformed("not JSON".into()),
        Invalid::new("options.retry.max", "must be at most 24h").into(),
        Error::NotFound {
            what: "pipeline".into(),
            name: name(),
        },
        Error::Gone(name()),
        Error::Exists {
            what: "application".into(),
            name: name(),
        },
        Error::WrongState("the pipeline is being deleted".into()),
        Error::KeyReused(name()),
        Error::StaleRevision {
            expected: 1,
            found: 2,
        },
        Error::RevisionRequired,
        Error::TooLarge {
            what: "data".into(),
            max: 1 << 20,
        },
        Error::Overloaded {
            what: "calls_max".into(),
            retry_after: second,
        },
        Error::Unavailable {
            what: "the log is away".into(),
            retry_after: 3 * second,
        },
        Error::UnknownOutcome {
            what: "the submit".into(),
        },
        Error::Internal("a broken invariant".into()),
    ];
    let lost = [
        LeaseLost::Stale,
        LeaseLost::Cancelled,
        LeaseLost::TimedOut,
        LeaseLost::Ended,
    ];
    all.extend(lost.map(Error::LeaseLost));
    all
}

#[test]
fn every_error_comes_back_as_it_was() {
    for error in every_error() {
        assert_eq!(from_status(&to_status(&error)), error);
        assert_eq!(from_rpc(&to_rpc(&error)), Err(error));
    }
}

#[test]
fn every_error_has_its_own_reason_and_the_same_message() {
    let mut reasons = std::collections::BTreeMap::new();
    for error in every_error() {
        let status = to_status(&error);
        assert_eq!(status.message(), error.to_string());
        let reason = status.get_details_error_info().unwrap().reason;
        let variant = std::mem::discriminant(&error);
        assert_eq!(*reasons.entry(reason).or_insert(variant), variant);
    }
    assert_eq!(reasons.len(), 15);
}

#[test]
fn what_can_be_tried_again_says_when() {
    for error in every_error() {
        let told = to_status(&error)
            .get_details_retry_info()
            .and_then(|info| info.retry_delay);
        assert_eq!(told, error.retry_after());
    }
}

#[test]
fn a_status_from_elsewhere_is_read_by_its_code() {
    let read = |code| from_status(&Status::new(code, "proxy says no"));
    assert!(matches!(read(Code::Unavailable), Error::Unavailable { .. }));
    assert!(matches!(
        read(Code::DeadlineExceeded),
        Error::UnknownOutcome { .. }
    ));
    assert!(matches!(read(Code::InvalidArgument), Error::Malformed(_)));
    assert!(matches!(
        read(Code::ResourceExhausted),
        Error::Overloaded { .. }
    ));
}
