//! Secrets in what is shown.

/// Hides everything between the first scheme and the last `@`, and whatever follows a question mark. Of a list of URLs
/// with secrets only the last host is left: a secret may hold any character that could part one URL from the next.
pub(crate) fn mask_url(url: &str) -> String {
    let Some(scheme) = url.find("://") else { return "***".to_owned() };
    match (url.rfind('@').filter(|at| *at > scheme), url.find('?')) {
        (None, None) => url.to_owned(),
        (None, Some(question)) => url[..question].to_owned(),
        (Some(at), question) if question.is_none_or(|question| question > at) => {
            format!("{}://***{}", &url[..scheme], &url[at..question.unwrap_or(url.len())])
        }
        // Either a password with a question mark or a query with an `@`: nobody can tell, so nothing is shown.
        (Some(_), _) => format!("{}://***", &url[..scheme]),
    }
}
