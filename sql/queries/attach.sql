SELECT pgmeaning.attach(%(source)s::regclass, columns => %(columns)s, template => %(template)s, name => %(name)s, image => %(image)s,
    video => %(video)s, model => %(model)s, dimensions => %(dimensions)s, chunking => %(chunking)s, grant_to => %(grant_to)s::name[],
    allow_deprecated => %(allow_deprecated)s, language => %(language)s, "precision" => %(precision)s)
