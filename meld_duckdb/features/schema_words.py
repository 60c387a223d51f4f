"""Words of schemas: field aliases, abbreviations, kinds of columns, stop words, type names."""

from __future__ import annotations

import re

from meld_duckdb.records import TEXT_FIELD

ALIASES: dict[str, tuple[str, ...]] = {
    "column": ("column", "column_name", "name", "col", "field", "attribute", TEXT_FIELD),
    "table": ("table", "table_name", "tbl", "relation"),
    "description": ("description", "comment", "column_description", "column_comment", "desc"),
    "table_description": ("table_description", "table_comment"),
    "type": ("type", "data_type", "column_type", "dtype"),
    "values": ("values", "sample_values", "examples"),
}
"""Fields of a column record, the first present one of each line counts; case does not matter."""

ABBREVIATIONS: dict[str, str] = dict(
    pair.split("=")
    for pair in (
        "nbr=number num=number no=number nr=number cnt=count qty=quantity amt=amount pct=percent "
        "dt=date dte=date ts=timestamp tm=time yr=year mo=month dob=birth_date desc=description "
        "descr=description cd=code cde=code typ=type cat=category addr=address adr=address "
        "cntry=country cty=city zip=zipcode postal=zipcode tel=phone telephone=phone "
        "ph=phone fname=first_name lname=last_name nm=name lang=language ident=identifier "
        "id=identifier ids=identifier key=identifier pk=identifier fk=identifier ref=reference "
        "org=organization dept=department mgr=manager emp=employee cust=customer clm=claim "
        "prvdr=provider prov=provider pt=patient pat=patient bene=beneficiary admsn=admission "
        "admtng=admitting dgns=diagnosis dx=diagnosis icd=diagnosis_code prcdr=procedure "
        "proc=procedure hcpcs=procedure_code cpt=procedure_code rx=drug ndc=drug_code med=drug "
        "medication=drug hosp=hospital srvc=service srvs=service svc=service pmt=payment "
        "pymt=payment chrg=charge ded=deductible coins=coinsurance insur=insurance thru=through "
        "strt=start beg=begin ind=indicator flg=flag stat=status sts=status val=value vol=volume "
        "avg=average min=minimum max=maximum src=source tgt=target sp=state gndr=gender sex=gender "
        "race=race mrtl=marital lat=latitude lon=longitude lng=longitude loc=location grp=group "
        "lvl=level pos=position prod=product inv=inventory acct=account bal=balance usr=user "
        "img=image pic=image len=length wt=weight ht=height temp=temperature freq=frequency "
        "orig=original mod=modified upd=update cr=created del=deleted msg=message"
    ).split()
)

CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|(?<=[A-Za-z])(?=\d)")
KINDS: dict[str, frozenset[str]] = {
    "date": frozenset({"date", "time", "timestamp", "year", "month", "day", "datetime"}),
    "identifier": frozenset({"identifier", "uuid", "npi", "ssn"}),
    "code": frozenset({"code", "type", "category", "class", "concept"}),
    "amount": frozenset({"amount", "cost", "price", "payment", "charge", "paid", "total", "rate"}),
    "count": frozenset({"number", "count", "quantity", "volume", "days"}),
    "text": frozenset({"name", "title", "description", "text", "note", "reason", "comment"}),
    "place": frozenset({"address", "city", "state", "zipcode", "county", "country", "location"}),
    "flag": frozenset({"flag", "indicator", "status", "active"}),
}
STOP = frozenset(
    "a an and are as at be by for from has if in is it its of on or that the this to was were "
    "which with used each contains field column value values e g i".split()
)
TYPES = dict(
    pair.split("=")
    for pair in (
        "bool=flag date=date time=date int=number dec=number num=number float=number double=number "
        "real=number char=text text=text string=text uuid=text enum=text"
    ).split()
)
"""Part of a type's name to its family; the first that occurs counts."""
