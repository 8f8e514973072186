theme();
begin();
document.body.dataset.ready = "yes";
