//! Values as the stores on disk keep them.

use crate::purchase::Status;

/// A status's text and its buyer action's. They lie apart, so that wiping an action rewrites no status.
pub(super) fn status_texts(status: &mut Status) -> serde_json::Result<(String, Option<String>)> {
    let action = status.buyer_action.take();
    let text = serde_json::to_string(status);
    let action_text = action.as_ref().map(serde_json::to_string).transpose();
    status.buyer_action = action;
    Ok((text?, action_text?))
}
